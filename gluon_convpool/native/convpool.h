/* The C interface of the kernels: plain pointers and sizes, nothing of MXNet or Python.
 *
 * Arrays are dense and do not overlap unless said otherwise; the caller owns them. No function
 * throws, keeps a pointer after it returns, or reads or writes outside the arrays. Results have the
 * same bits for the same input, instruction set and library, whatever the number of threads.
 * Every function may be called from several threads at once.
 */
#ifndef CONVPOOL_H_
#define CONVPOOL_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CONVPOOL_API __attribute__((visibility("default")))

#define CONVPOOL_MAX_NDIM 3

typedef enum {
  CONVPOOL_OK = 0,
  CONVPOOL_UNSUPPORTED = 1,  /* no kernel has such a problem: ndim, dtype, layout or sizes */
  CONVPOOL_OUT_OF_MEMORY = 2 /* scratch memory could not be had; outputs are undefined */
} convpool_status;

typedef enum { CONVPOOL_FLOAT32 = 0, CONVPOOL_FLOAT64 = 1 } convpool_dtype;
typedef enum { CONVPOOL_CHANNEL_FIRST = 0, CONVPOOL_CHANNEL_LAST = 1 } convpool_layout;
typedef enum {
  CONVPOOL_MAX = 0,
  CONVPOOL_AVG = 1,
  CONVPOOL_SUM = 2,
  CONVPOOL_LP = 3
} convpool_pool_mode;

/* What CONVPOOL_AVG divides a window's sum by: how many of its elements lie in the data; how many
 * lie there or in padding that is as long behind the data as in front; or how many there are, for
 * windows that all lie within the padded data, however long the padding behind is. */
typedef enum {
  CONVPOOL_COUNT_DATA = 0,
  CONVPOOL_COUNT_PADDING = 1,
  CONVPOOL_COUNT_WINDOW = 2
} convpool_count;

/* Which arithmetic computes a convolution. A forced algorithm that cannot do this convolution's
 * forward pass gives CONVPOOL_UNSUPPORTED; one that can, but has no kernel for a gradient, leaves
 * that gradient to the choice of CONVPOOL_AUTO. */
typedef enum {
  CONVPOOL_AUTO = 0,
  CONVPOOL_IMPLICIT_GEMM = 1,
  CONVPOOL_WINOGRAD = 2,
  CONVPOOL_DEPTHWISE = 3
} convpool_algorithm;

typedef enum {
  CONVPOOL_FORWARD = 0,
  CONVPOOL_BACKWARD_DATA = 1,
  CONVPOOL_BACKWARD_WEIGHT = 2
} convpool_pass;

/* A window that slides over `ndim` axes, outermost first: (W), (H, W) or (D, H, W). Only the first
 * ndim entries of each array are read. */
typedef struct {
  int32_t ndim;
  int64_t kernel[CONVPOOL_MAX_NDIM];
  int64_t stride[CONVPOOL_MAX_NDIM];
  int64_t dilation[CONVPOOL_MAX_NDIM];
  int64_t pad[CONVPOOL_MAX_NDIM]; /* before the first element; what follows the last one comes from
                                     the output size */
  int64_t in_size[CONVPOOL_MAX_NDIM];
  int64_t out_size[CONVPOOL_MAX_NDIM];
} convpool_window;

/* x: (batch, in_channels, in_size...), y: (batch, out_channels, out_size...),
 * weight: (out_channels, in_channels / groups, kernel...), bias: (out_channels).
 * Groups divide both channel counts; groups, channels, kernels, strides and dilations are at least
 * 1, and nothing is negative. Anything else is CONVPOOL_UNSUPPORTED, and no algorithm serves it. */
typedef struct {
  convpool_dtype dtype;
  convpool_layout layout;
  convpool_algorithm algorithm;
  int64_t batch, in_channels, out_channels, groups;
  convpool_window window;
  const void* packed; /* null; see convpool_pack_weight */
} convpool_convolution;

/* x: (batch, channels, in_size...), y: (batch, channels, out_size...). Dilation is 1. */
typedef struct {
  convpool_dtype dtype;
  convpool_layout layout;
  convpool_pool_mode mode;
  int32_t p;                 /* for CONVPOOL_LP: 1, 2 or 3 */
  int32_t count_include_pad; /* for CONVPOOL_AVG: a convpool_count */
  int64_t batch, channels;
  convpool_window window;
} convpool_pooling;

/* Where a deformable convolution reads x: (batch, channels, in_size...), of two axes. Of the
 * groups, which divide the channels, each has an offset (row, column) for each element of each
 * window: offset: (batch, groups, kernel..., 2, out_size...), mask: (batch, groups, kernel...,
 * out_size...), and what is seen, columns: (batch, channels, kernel..., out_size...).
 *
 * Without a mask, which is null then, x ends at its last elements: places below 0 or from the size
 * on see 0, and those between the last element and the size that element. With one, x has zeros
 * around it. Places that are not finite see 0. */
typedef struct {
  convpool_dtype dtype;
  int64_t batch, channels, groups;
  convpool_window window;
} convpool_sampling;

/* x and y: (batch, channels, inner), with everything behind the channels as one axis; the other
 * arrays have one value for each channel. */
typedef struct {
  convpool_dtype dtype;
  int32_t training;  /* statistics are those of x, else the running ones */
  int32_t fix_gamma; /* gamma counts as 1 and its gradient is 0 */
  int32_t relu;      /* y is max(y, 0), where NaN stays NaN */
  int64_t batch, channels, inner;
  double epsilon, momentum;
} convpool_batch_norm;

/* The algorithm that serves a pass of this convolution, or CONVPOOL_AUTO where none does. */
CONVPOOL_API convpool_algorithm convpool_convolution_algorithm(const convpool_convolution* conv,
                                                               convpool_pass pass);

/* y = x * weight + bias; bias may be null. */
CONVPOOL_API convpool_status convpool_convolution_forward(const convpool_convolution* conv,
                                                          const void* x, const void* weight,
                                                          const void* bias, void* y);
/* What else is done to each value of y before it is written:
 *   v += sum;  v = v < 0 ? negative_slope * v : v;  v = min(max(v, lowest), highest)
 *   v = 1 / (1 + exp(-v)), if `sigmoid` is not 0
 * `sum` is laid out like y and does not overlap it; it may be null. NaN stays NaN. */
typedef struct {
  const void* sum;
  double negative_slope, lowest, highest;
  int32_t sigmoid;
} convpool_epilogue;

CONVPOOL_API convpool_status convpool_convolution_forward_fused(const convpool_convolution* conv,
                                                                const void* x, const void* weight,
                                                                const void* bias,
                                                                const convpool_epilogue* epilogue,
                                                                void* y);
/* A weight packed for the forward passes of a convolution: transformed already, where that pays for
 * these sizes of data. `values` are those of the packed array, of the convolution's dtype, and
 * `share` is the estimated time of a pass, relative to that with the weight as it is. A packed
 * weight serves any batch and size, and any processor, but may be of no more use there than the
 * weight that it was made from. */
typedef struct {
  int64_t values;
  double share;
} convpool_packing;
CONVPOOL_API convpool_status convpool_plan_packing(const convpool_convolution* conv,
                                                   convpool_packing* packing);
/* Packs a weight into an array of that many values. */
CONVPOOL_API convpool_status convpool_pack_weight(const convpool_convolution* conv,
                                                  const void* weight, void* packed);
/* Where a packed weight of so many values keeps the weight that it was made from, for a convolution
 * that may set `packed` to it; null where it is none for a weight of this type, layout and shape.
 */
CONVPOOL_API const void* convpool_packed_weight(const convpool_convolution* conv,
                                                const void* packed, int64_t values);
/* The x of a convolution as several arrays, piece i of shape (batch, channels[i], in_size...), that
 * stand one behind the other along the channels. Each value v is first v * scale + shift, with one
 * value of both for each channel of all, and then at least `lowest`; scale and shift may be null,
 * and then v is read as it is. NaN stays NaN. */
typedef struct {
  int64_t pieces;
  const void* const* data;
  const int64_t* channels;
  const void *scale, *shift;
  double lowest;
} convpool_joined_input;

/* The same as convpool_convolution_forward_fused on such an x, whose channels add up to
 * conv->in_channels. Only for a pointwise convolution: kernel and stride 1, no padding, one group.
 * The epilogue may be null. */
CONVPOOL_API convpool_status convpool_convolution_forward_joined(
    const convpool_convolution* conv, const convpool_joined_input* x, const void* weight,
    const void* bias, const convpool_epilogue* epilogue, void* y);
/* The gradient of x, given that of y. */
CONVPOOL_API convpool_status convpool_convolution_backward_data(const convpool_convolution* conv,
                                                                const void* dy, const void* weight,
                                                                void* dx);
/* The transposed convolution: the same, of an array dy of its own, with a value of the bias, which
 * may be null, added to each of the in_channels. */
CONVPOOL_API convpool_status convpool_convolution_transpose(const convpool_convolution* conv,
                                                            const void* dy, const void* weight,
                                                            const void* bias, void* dx);
/* The gradient of the weight, given that of y. */
CONVPOOL_API convpool_status convpool_convolution_backward_weight(const convpool_convolution* conv,
                                                                  const void* x, const void* dy,
                                                                  void* dweight);
/* The gradient of the bias, given that of y. */
CONVPOOL_API convpool_status convpool_convolution_backward_bias(const convpool_convolution* conv,
                                                                const void* dy, void* dbias);

CONVPOOL_API convpool_status convpool_pooling_forward(const convpool_pooling* pool, const void* x,
                                                      void* y);
/* The gradient of x, given x, y and the gradient of y. */
CONVPOOL_API convpool_status convpool_pooling_backward(const convpool_pooling* pool, const void* x,
                                                       const void* y, const void* dy, void* dx);

CONVPOOL_API convpool_status convpool_deformable_columns_forward(const convpool_sampling* sampling,
                                                                 const void* x, const void* offset,
                                                                 const void* mask, void* columns);
/* The gradients of x, offset and mask, given that of the columns. */
CONVPOOL_API convpool_status convpool_deformable_columns_backward(const convpool_sampling* sampling,
                                                                  const void* x, const void* offset,
                                                                  const void* mask,
                                                                  const void* dcolumns, void* dx,
                                                                  void* doffset, void* dmask);

/* y = (x - mean) * inv_std * gamma + beta. Gives the mean and 1 / sqrt(variance + epsilon) too. */
CONVPOOL_API convpool_status convpool_batch_norm_forward(const convpool_batch_norm* norm,
                                                         const void* x, const void* gamma,
                                                         const void* beta, const void* running_mean,
                                                         const void* running_var, void* y,
                                                         void* mean, void* inv_std);
/* The gradients of x, gamma and beta, given that of y and what the forward pass gave. In training
 * it also moves the running statistics: running * momentum + now * (1 - momentum). */
CONVPOOL_API convpool_status convpool_batch_norm_backward(const convpool_batch_norm* norm,
                                                          const void* x, const void* gamma,
                                                          const void* beta, const void* mean,
                                                          const void* inv_std, const void* dy,
                                                          void* dx, void* dgamma, void* dbeta,
                                                          void* running_mean, void* running_var);

/* How many threads a call may use. n < 1 goes back to the default: OMP_NUM_THREADS where it is set,
 * else the processors that affinity and the cgroup's quota leave to the process. A forked child
 * computes with one thread, because the threads of its parent do not exist in it. */
CONVPOOL_API void convpool_set_num_threads(int n);
CONVPOOL_API int convpool_get_num_threads(void);

/* Ends the threads that wait for the calling thread's next parallel loop, which then starts new
 * ones. For a thread that has its work done by others, as MXNet's engine does it: GNU's OpenMP
 * counts the threads of all, and while they are more than the processors, each goes to sleep as
 * soon as it has nothing to do, and waking it takes as long as a small layer. */
CONVPOOL_API void convpool_release_threads(void);

/* Whether CONVPOOL_AUTO may choose Winograd's convolution, and whether it can be forced. On, unless
 * the environment says GLUON_CONVPOOL_WINOGRAD=0. */
CONVPOOL_API void convpool_set_winograd(int enabled);
CONVPOOL_API int convpool_get_winograd(void);

/* The instruction set in use: "baseline", "avx2" or "avx512". Setting one that this processor or
 * this build lacks returns CONVPOOL_UNSUPPORTED and changes nothing. Null, as at first, stands for
 * the best one, and then a convolution for which a narrower one costs less may go to that: on
 * processors that compute the widest vectors in two halves. */
CONVPOOL_API const char* convpool_instruction_set(void);
CONVPOOL_API convpool_status convpool_set_instruction_set(const char* name);

/* Multiply-adds per second of the micro-kernel on packed panels that stay in cache, and of
 * independent multiply-adds in registers: one thread, in operations (two per multiply-add) per
 * second. */
CONVPOOL_API double convpool_measure_micro_kernel(double seconds);
CONVPOOL_API double convpool_measure_peak(double seconds);

#ifdef __cplusplus
}
#endif

#endif  // CONVPOOL_H_
