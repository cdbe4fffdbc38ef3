// Prints what the kernels reach on this processor, without MXNet or Python:
//
//   c++ -O2 -I gluon_convpool/native gluon_convpool/native/benchmark_main.cc
//       gluon_convpool/libconvpool.so -o convpool-benchmark && ./convpool-benchmark [threads]
//
// First the micro-kernel's share of the multiply-add peak, then whole convolutions': the median of
// half a second of calls each.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "convpool.h"

namespace {

struct Layer {
  const char* name;
  int64_t batch, in_channels, out_channels, size, kernel, stride, pad;
};

constexpr Layer kLayers[] = {
    {"3x3 64 to 64, 56x56", 1, 64, 64, 56, 3, 1, 1},
    {"3x3 128 to 128, 28x28", 1, 128, 128, 28, 3, 1, 1},
    {"3x3 256 to 256, 14x14", 1, 256, 256, 14, 3, 1, 1},
    {"3x3 512 to 512, 7x7", 1, 512, 512, 7, 3, 1, 1},
    {"7x7/2 3 to 64, 224x224", 1, 3, 64, 224, 7, 2, 3},
    {"1x1 64 to 64, 56x56", 1, 64, 64, 56, 1, 1, 0},
    {"1x1 256 to 1024, 14x14, batch 8", 8, 256, 1024, 14, 1, 1, 0},
    {"5x5 1 to 6, 28x28, batch 32", 32, 1, 6, 28, 5, 1, 2},
    {"3x3 64 to 64, 56x56, batch 8", 8, 64, 64, 56, 3, 1, 1},
};

convpool_convolution problem(const Layer& layer) {
  convpool_convolution conv{};
  conv.batch = layer.batch;
  conv.in_channels = layer.in_channels;
  conv.out_channels = layer.out_channels;
  conv.groups = 1;
  conv.window.ndim = 2;
  for (int d = 0; d < 2; ++d) {
    conv.window.kernel[d] = layer.kernel;
    conv.window.stride[d] = layer.stride;
    conv.window.dilation[d] = 1;
    conv.window.pad[d] = layer.pad;
    conv.window.in_size[d] = layer.size;
    conv.window.out_size[d] = (layer.size + 2 * layer.pad - layer.kernel) / layer.stride + 1;
  }
  return conv;
}

template <typename Call>
double median_seconds(const Call& call) {
  using Clock = std::chrono::steady_clock;
  call();
  std::vector<double> times;
  for (const auto end = Clock::now() + std::chrono::milliseconds(500); Clock::now() < end;) {
    const auto start = Clock::now();
    call();
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  convpool_set_num_threads(threads);
  const double peak = convpool_measure_peak(0.5);
  const double kernel = convpool_measure_micro_kernel(0.5);
  std::printf("%s, %d thread(s)\n", convpool_instruction_set(), threads);
  std::printf("%-34s %7.1f GFLOP/s a thread\n", "multiply-adds in registers", peak / 1e9);
  std::printf("%-34s %7.1f GFLOP/s a thread, %.0f %%\n", "micro-kernel on packed panels",
              kernel / 1e9, 100 * kernel / peak);
  std::printf("%-34s %10s %10s %10s   share of peak\n", "", "forward", "data", "weight");
  for (const Layer& layer : kLayers) {
    const convpool_convolution conv = problem(layer);
    const int64_t out = conv.window.out_size[0] * conv.window.out_size[1];
    const int64_t taps = layer.kernel * layer.kernel;
    const auto count = [](int64_t n) { return static_cast<size_t>(n); };
    std::vector<float> x(count(layer.batch * layer.in_channels * layer.size * layer.size), 0.5f);
    std::vector<float> w(count(layer.out_channels * layer.in_channels * taps), 0.25f);
    std::vector<float> y(count(layer.batch * layer.out_channels * out), 0.125f);
    std::vector<float> dx(x.size()), dw(w.size());
    const double share = 2.0 * static_cast<double>(y.size()) *
                         static_cast<double>(layer.in_channels * taps) / (peak * threads);
    const double forward = median_seconds(
        [&] { convpool_convolution_forward(&conv, x.data(), w.data(), nullptr, y.data()); });
    const double data = median_seconds(
        [&] { convpool_convolution_backward_data(&conv, y.data(), w.data(), dx.data()); });
    const double weight = median_seconds(
        [&] { convpool_convolution_backward_weight(&conv, x.data(), y.data(), dw.data()); });
    std::printf("%-34s %8.0f %% %8.0f %% %8.0f %%\n", layer.name, 100 * share / forward,
                100 * share / data, 100 * share / weight);
  }
  return 0;
}
