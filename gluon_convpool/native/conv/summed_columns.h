// The gradient of the data as columns = dY^T * W: what each output gives to each value that its
// window read, which is then added up where the windows lie. The weights are read as they stand,
// and strides leave no phases that each have a product of their own. Some images and a range of
// channels at a time, so that columns stay small.
#pragma once

#include "../arena.h"
#include "../parallel.h"
#include "../transpose.h"
#include "matrix_product.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class SummedColumns {
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int64_t kBytes = sizeof(T);
  // Of the images and channels that go together, and of what one vector of channels of an image is
  // added up in.
  static constexpr int64_t kColumnBytes = 1 << 20, kSumBytes = 512 << 10;
  // As many rows of a product as it takes for the weights to be read seldom.
  static constexpr int64_t kRows = 256;

 public:
  static bool serves(const convpool_convolution& conv) {
    const SummedColumns columns(conv);
    return columns.column_bytes(1, kLanes) <= kColumnBytes &&
           columns.in_plane_ * kLanes * kBytes <= kSumBytes;
  }

  // An estimate in multiply-adds at the speed of the micro-kernel, measured with AVX-512: a
  // column's value is added up in the time of kAdd of them, a sum is written in that of kPut, a
  // weight is cut in that of kCut, and each product of matrices begins with kStart. Where columns
  // are the sums, what takes time is to turn dY (kTurn for a value) and them (kTurnBack).
  static double cost(const convpool_convolution& conv) {
    constexpr double kPerStep = 1.1, kAdd = 24, kPut = 24, kCut = 16, kStart = 3e5;
    constexpr double kTurn = 30, kTurnBack = 40;
    const SummedColumns columns(conv);
    const int64_t parts = ceil_div(conv.batch, columns.together_);
    const int64_t chunks = ceil_div(columns.inputs_, columns.chunk_);
    const double rows = static_cast<double>(conv.groups * conv.batch * columns.positions_);
    const double lanes = static_cast<double>(ceil_div(columns.inputs_, kLanes) * kLanes);
    const double inputs = static_cast<double>(columns.inputs_ * columns.taps_);
    const double outputs = static_cast<double>(columns.outputs_);
    const double sums = static_cast<double>(conv.groups * conv.batch * columns.in_plane_) * lanes;
    const double moved =
        columns.is_sum_of_one()
            ? kTurn * rows * outputs + kTurnBack * sums
            : kPut * sums + kAdd * rows * lanes * static_cast<double>(columns.taps_);
    return moved + kPerStep * rows * inputs * outputs +
           static_cast<double>(conv.groups * parts) *
               (kCut * inputs * outputs + kStart * static_cast<double>(chunks));
  }

  // Returns false where memory is out.
  static bool run(const convpool_convolution& conv, const T* dy, const T* weight, T* dx) {
    return SummedColumns(conv).run(dy, weight, dx);
  }

 private:
  explicit SummedColumns(const convpool_convolution& conv)
      : conv_(conv),
        window_(conv.window),
        positions_(product_of_axes(window_.out_size)),
        in_plane_(product_of_axes(window_.in_size)),
        taps_(product_of_axes(window_.kernel)),
        inputs_(conv.in_channels / conv.groups),
        outputs_(conv.out_channels / conv.groups) {
    // What has no output or channel has a cost that can be asked.
    const int64_t fitting = kColumnBytes / max_of(1, column_bytes(1, min_of(inputs_, kLanes)));
    const int64_t enough = ceil_div(kRows, max_of(1, positions_));
    together_ = max_of(1, min_of(conv.batch, min_of(fitting, enough)));
    const int64_t vectors = kColumnBytes / max_of(1, column_bytes(together_, kLanes));
    chunk_ = min_of(inputs_, max_of(1, vectors) * kLanes);
  }

  int64_t column_bytes(int64_t images, int64_t channels) const {
    return images * positions_ * taps_ * channels * kBytes;
  }

  bool run(const T* dy, const T* weight, T* dx) const {
    // All threads go from one part to the next together: each with images of its own, they would
    // wait for the same weights.
    for (int64_t image = 0; image < conv_.batch; image += together_)
      if (!run_images(image, min_of(together_, conv_.batch - image), dy, weight, dx)) return false;
    return true;
  }

  // `images` of them from `image` on.
  bool run_images(int64_t image, int64_t images, const T* dy, const T* weight, T* dx) const {
    const int64_t rows = images * positions_;
    Arena arena(Scratch::kColumns);
    const size_t dy_at = arena.template reserve<T>(rows * conv_.out_channels);
    // The last vector of channels may have fewer than lanes.
    const size_t columns_at = arena.template reserve<T>((rows * chunk_ + kLanes) * taps_);
    if (!arena.allocate()) return false;
    T *turned = arena.template at<T>(dy_at), *columns = arena.template at<T>(columns_at);
    transpose_matrices(dy + image * conv_.out_channels * positions_, images, conv_.out_channels,
                       positions_, turned);
    for (int64_t group = 0; group < conv_.groups; ++group)
      for (int64_t first = 0; first < inputs_; first += chunk_) {
        const int64_t channels = min_of(chunk_, inputs_ - first);
        const Matrix<T> a{turned + group * outputs_, conv_.out_channels, 1};
        const T* b = weight + (group * outputs_ * inputs_ + first) * taps_;
        if (!multiply_matrices(rows, outputs_, channels * taps_, a, b, inputs_ * taps_, columns))
          return false;
        if (!add_up(columns, images, channels,
                    dx + (image * conv_.in_channels + group * inputs_ + first) * in_plane_))
          return false;
      }
    return true;
  }

  // The columns of some images and channels to where their windows lie. Lanes are channels, so that
  // a window's values are added in whole vectors wherever it lies.
  bool add_up(const T* columns, int64_t images, int64_t channels, T* dx) const {
    const int64_t plane = in_plane_, slices = ceil_div(channels, kLanes);
    const double work = static_cast<double>(images * positions_ * channels * taps_);
    bool failed = false;
    parallel_for(images * slices, work, [&](int64_t task) {
      const int64_t image = task / slices, c = task % slices * kLanes;
      const T* column = columns + (image * positions_ * channels + c) * taps_;
      T* to = dx + (image * conv_.in_channels + c) * plane;
      const int64_t count = min_of(kLanes, channels - c);
      if (is_sum_of_one()) return put(column, channels, count, to);
      Arena arena(Scratch::kTask);
      const size_t sums_at = arena.template reserve<T>(plane * kLanes);
      const size_t taps_at = arena.template reserve<T>(taps_ * kLanes);
      if (!arena.allocate()) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      T *sums = arena.template at<T>(sums_at), *taps = arena.template at<T>(taps_at);
      clear(sums, plane * kLanes);
      add_windows(column, channels * taps_, taps, sums);
      put(sums, kLanes, count, to);
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  // Does each value of x stand in one window, at the place of that window's output?
  bool is_sum_of_one() const {
    for (int d = 0; d < 3; ++d)
      if (window_.kernel[d] != 1 || window_.stride[d] != 1 || window_.pad[d] != 0 ||
          window_.in_size[d] != window_.out_size[d])
        return false;
    return true;
  }

  // Sums, or columns of one, to `count` channels: [place of x][lane], places `pitch` values apart.
  void put(const T* sums, int64_t pitch, int64_t count, T* to) const {
    const int64_t plane = in_plane_;
    for (int64_t k = 0; plane >= kLanes && k < plane; k += kLanes) {
      const int64_t at = min_of(k, plane - kLanes);
      transpose_square(sums + at * pitch, pitch, to + at, plane, count);
    }
    for (int64_t k = 0; plane < kLanes && k < plane; ++k)
      for (int64_t lane = 0; lane < count; ++lane) to[lane * plane + k] = sums[k * pitch + lane];
  }

  // Columns of kLanes channels, `pitch` values from output to output, to sums: [place of x][lane].
  void add_windows(const T* columns, int64_t pitch, T* taps, T* sums) const {
    const int64_t *in = window_.in_size, *out = window_.out_size, *kernel = window_.kernel;
    for (int64_t z = 0; z < out[2]; ++z)
      for (int64_t r = 0; r < out[0]; ++r)
        for (int64_t c = 0; c < out[1]; ++c, columns += pitch) {
          for (int64_t t = 0; t < taps_; t += kLanes) {
            const int64_t at = max_of(0, min_of(t, taps_ - kLanes));
            transpose_square(columns + at, taps_, taps + at * kLanes, kLanes, taps_);
          }
          const int64_t column = place(1, c, 0), step = window_.dilation[1];
          for (int64_t t = 0; t < kernel[2]; ++t)
            for (int64_t i = 0; i < kernel[0]; ++i) {
              const int64_t slice = place(2, z, t), row = place(0, r, i);
              if (slice < 0 || slice >= in[2] || row < 0 || row >= in[0]) continue;
              const T* tap = taps + (t * kernel[0] + i) * kernel[1] * kLanes;
              T* line = sums + (slice * in[0] + row) * in[1] * kLanes;
              for (int64_t j = 0, x = column; j < kernel[1]; ++j, x += step, tap += kLanes)
                if (x >= 0 && x < in[1])
                  store<T>(line + x * kLanes, load<T>(line + x * kLanes) + load<T>(tap));
            }
        }
  }

  // Where tap `tap` of output `out` lies on axis d.
  int64_t place(int d, int64_t out, int64_t tap) const {
    return out * window_.stride[d] + tap * window_.dilation[d] - window_.pad[d];
  }

  const convpool_convolution& conv_;
  const convpool_window& window_;
  const int64_t positions_, in_plane_;  // outputs, and places of x, of an image
  const int64_t taps_;
  const int64_t inputs_, outputs_;  // channels of a group
  int64_t together_, chunk_;        // images and channels at a time
};

}  // namespace convpool::CONVPOOL_ISA
