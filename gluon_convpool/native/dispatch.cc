// The C interface: each call goes to the kernels of the instruction set in use.
#include <string.h>

#include <atomic>

#include "choice_memo.h"
#include "convpool.h"
#include "kernels.h"
#include "processor.h"
#include "threads.h"
#include "winograd_switch.h"

namespace convpool {
namespace {

// The tables that this processor can run, best first.
const Kernels* find(const char* name) {
#if defined(CONVPOOL_HAVE_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      (!name || !strcmp(name, avx512::kKernels.name)))
    return &avx512::kKernels;
#endif
#if defined(CONVPOOL_HAVE_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      (!name || !strcmp(name, avx2::kKernels.name)))
    return &avx2::kKernels;
#endif
  if (!name || !strcmp(name, baseline::kKernels.name)) return &baseline::kKernels;
  return nullptr;
}

std::atomic<const Kernels*> chosen{nullptr};
std::atomic<bool> named{false};  // has the caller chosen?

const Kernels& kernels() {
  const Kernels* table = chosen.load(std::memory_order_acquire);
  if (!table) {
    table = find(nullptr);
    chosen.store(table, std::memory_order_release);
  }
  return *table;
}

#if defined(CONVPOOL_HAVE_AVX512)
// Of the tables with whole and half vectors, the one for a pass of a convolution where both compute
// as many multiply-adds a second: the narrow one where it costs much less. Where they cost the
// same, the wide one is 5 to 10 % faster alone, and 20 % beside other work.
Choice choose_table(const convpool_convolution& conv, convpool_pass pass) {
  constexpr double kSurelyLess = 0.8;
  const double wide = avx512::kKernels.convolution_cost(&conv, pass);
  const double narrow = avx2::kKernels.convolution_cost(&conv, pass);
  if (narrow < kSurelyLess * wide) return {&avx2::kKernels, narrow};
  return {&avx512::kKernels, wide};
}
#endif

// The table for a pass of a convolution: the one in use, unless two serve.
const Kernels& kernels(const convpool_convolution* conv, convpool_pass pass) {
  const Kernels& table = kernels();
#if defined(CONVPOOL_HAVE_AVX512)
  if (&table == &avx512::kKernels && !named && halves_wide_vectors())
    return *static_cast<const Kernels*>(remembered_choice(choose_table, *conv, pass).chosen);
#else
  (void)conv;
  (void)pass;
#endif
  return table;
}

}  // namespace
}  // namespace convpool

using convpool::kernels;

convpool_algorithm convpool_convolution_algorithm(const convpool_convolution* conv,
                                                  convpool_pass pass) {
  return kernels(conv, pass).convolution_algorithm(conv, pass);
}

namespace convpool {
namespace {

struct PackingPlan {
  PackedWeight header;
  double share;
  const Kernels* table;
};

PackingPlan plan_packing(const convpool_convolution& conv) {
  // Less would not be worth several times the memory.
  constexpr double kWorthwhile = 0.95;
  convpool_convolution packed = conv;
  packed.packed = &kAnyPacked;
  PackingPlan plan{};
  plan.table = &kernels(&packed, CONVPOOL_FORWARD);
  const double before = kernels(&conv, CONVPOOL_FORWARD).convolution_cost(&conv, CONVPOOL_FORWARD);
  plan.share = plan.table->convolution_cost(&packed, CONVPOOL_FORWARD) / before;
  PackedWeight& header = plan.header;
  header.mark = PackedWeight::kMark;
  header.dtype = conv.dtype;
  header.layout = conv.layout;
  header.groups = conv.groups;
  header.out_channels = conv.out_channels;
  header.channels = conv.in_channels / conv.groups;
  header.ndim = conv.window.ndim;
  for (int d = 0; d < conv.window.ndim; ++d) header.kernel[d] = conv.window.kernel[d];
  if (plan.share < kWorthwhile) header.format = plan.table->pack_taps(&conv, nullptr, nullptr);
  if (header.format.values == 0) plan.share = 1;
  header.values = header.all_values();
  return plan;
}

}  // namespace
}  // namespace convpool

convpool_status convpool_plan_packing(const convpool_convolution* conv, convpool_packing* packing) {
  if (convpool_convolution_algorithm(conv, CONVPOOL_FORWARD) == CONVPOOL_AUTO)
    return CONVPOOL_UNSUPPORTED;
  const convpool::PackingPlan plan = convpool::plan_packing(*conv);
  *packing = {plan.header.values, plan.share};
  return CONVPOOL_OK;
}

convpool_status convpool_pack_weight(const convpool_convolution* conv, const void* weight,
                                     void* packed) {
  using convpool::PackedWeight;
  if (convpool_convolution_algorithm(conv, CONVPOOL_FORWARD) == CONVPOOL_AUTO)
    return CONVPOOL_UNSUPPORTED;
  const convpool::PackingPlan plan = convpool::plan_packing(*conv);
  const int64_t bytes = PackedWeight::value_bytes(conv->dtype);
  memset(packed, 0, static_cast<size_t>(plan.header.values * bytes));
  auto* header = static_cast<PackedWeight*>(packed);
  *header = plan.header;
  memcpy(header->weight(), weight, static_cast<size_t>(header->weights() * bytes));
  const int64_t values = header->format.values;
  if (values == 0 || plan.table->pack_taps(conv, weight, header->taps()).values == values)
    return CONVPOOL_OK;
  return CONVPOOL_OUT_OF_MEMORY;
}

const void* convpool_packed_weight(const convpool_convolution* conv, const void* packed,
                                   int64_t values) {
  using convpool::PackedWeight;
  if (values < PackedWeight::header_values(conv->dtype)) return nullptr;
  const auto* header = static_cast<const PackedWeight*>(packed);
  if (header->mark != PackedWeight::kMark || header->dtype != conv->dtype ||
      header->layout != conv->layout || header->groups != conv->groups ||
      header->out_channels != conv->out_channels ||
      header->channels * conv->groups != conv->in_channels || header->ndim != conv->window.ndim)
    return nullptr;
  for (int d = 0; d < conv->window.ndim; ++d)
    if (header->kernel[d] != conv->window.kernel[d]) return nullptr;
  if (header->values != values || header->all_values() != values) return nullptr;
  return header->weight();
}

convpool_status convpool_convolution_forward(const convpool_convolution* conv, const void* x,
                                             const void* weight, const void* bias, void* y) {
  return kernels(conv, CONVPOOL_FORWARD).convolution_forward(conv, x, weight, bias, nullptr, y);
}

convpool_status convpool_convolution_forward_fused(const convpool_convolution* conv, const void* x,
                                                   const void* weight, const void* bias,
                                                   const convpool_epilogue* epilogue, void* y) {
  return kernels(conv, CONVPOOL_FORWARD).convolution_forward(conv, x, weight, bias, epilogue, y);
}

convpool_status convpool_convolution_forward_joined(const convpool_convolution* conv,
                                                    const convpool_joined_input* x,
                                                    const void* weight, const void* bias,
                                                    const convpool_epilogue* epilogue, void* y) {
  return kernels(conv, CONVPOOL_FORWARD)
      .convolution_forward_joined(conv, x, weight, bias, epilogue, y);
}

convpool_status convpool_convolution_backward_data(const convpool_convolution* conv, const void* dy,
                                                   const void* weight, void* dx) {
  return kernels(conv, CONVPOOL_BACKWARD_DATA)
      .convolution_backward_data(conv, dy, weight, nullptr, dx);
}

convpool_status convpool_convolution_transpose(const convpool_convolution* conv, const void* dy,
                                               const void* weight, const void* bias, void* dx) {
  return kernels(conv, CONVPOOL_BACKWARD_DATA)
      .convolution_backward_data(conv, dy, weight, bias, dx);
}

convpool_status convpool_convolution_backward_weight(const convpool_convolution* conv,
                                                     const void* x, const void* dy, void* dweight) {
  return kernels(conv, CONVPOOL_BACKWARD_WEIGHT).convolution_backward_weight(conv, x, dy, dweight);
}

convpool_status convpool_convolution_backward_bias(const convpool_convolution* conv, const void* dy,
                                                   void* dbias) {
  return kernels().convolution_backward_bias(conv, dy, dbias);
}

convpool_status convpool_pooling_forward(const convpool_pooling* pool, const void* x, void* y) {
  return kernels().pooling_forward(pool, x, y);
}

convpool_status convpool_pooling_backward(const convpool_pooling* pool, const void* x,
                                          const void* y, const void* dy, void* dx) {
  return kernels().pooling_backward(pool, x, y, dy, dx);
}

convpool_status convpool_deformable_columns_forward(const convpool_sampling* sampling,
                                                    const void* x, const void* offset,
                                                    const void* mask, void* columns) {
  return kernels().deformable_columns_forward(sampling, x, offset, mask, columns);
}

convpool_status convpool_deformable_columns_backward(const convpool_sampling* sampling,
                                                     const void* x, const void* offset,
                                                     const void* mask, const void* dcolumns,
                                                     void* dx, void* doffset, void* dmask) {
  return kernels().deformable_columns_backward(sampling, x, offset, mask, dcolumns, dx, doffset,
                                               dmask);
}

convpool_status convpool_batch_norm_forward(const convpool_batch_norm* norm, const void* x,
                                            const void* gamma, const void* beta,
                                            const void* running_mean, const void* running_var,
                                            void* y, void* mean, void* inv_std) {
  return kernels().batch_norm_forward(norm, x, gamma, beta, running_mean, running_var, y, mean,
                                      inv_std);
}

convpool_status convpool_batch_norm_backward(const convpool_batch_norm* norm, const void* x,
                                             const void* gamma, const void* beta, const void* mean,
                                             const void* inv_std, const void* dy, void* dx,
                                             void* dgamma, void* dbeta, void* running_mean,
                                             void* running_var) {
  return kernels().batch_norm_backward(norm, x, gamma, beta, mean, inv_std, dy, dx, dgamma, dbeta,
                                       running_mean, running_var);
}

void convpool_set_num_threads(int n) { convpool::set_num_threads(n); }
int convpool_get_num_threads(void) { return convpool::num_threads(); }
void convpool_release_threads(void) { convpool::release_threads(); }

void convpool_set_winograd(int enabled) { convpool::enable_winograd(enabled != 0); }
int convpool_get_winograd(void) { return convpool::winograd_enabled() ? 1 : 0; }

const char* convpool_instruction_set(void) { return kernels().name; }

convpool_status convpool_set_instruction_set(const char* name) {
  const convpool::Kernels* table = convpool::find(name);
  if (!table) return CONVPOOL_UNSUPPORTED;
  convpool::chosen.store(table, std::memory_order_release);
  convpool::named = name != nullptr;
  return CONVPOOL_OK;
}

double convpool_measure_micro_kernel(double seconds) {
  return kernels().measure_micro_kernel(seconds);
}
double convpool_measure_peak(double seconds) { return kernels().measure_peak(seconds); }
