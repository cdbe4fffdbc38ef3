// Depthwise convolution: every output reads one input channel, so there is no matrix product to
// make of it. A plane is computed directly (depthwise_tiles.h) from strips of its padded image that
// stay in cache.
//
// The gradient of the input is the same computation for each phase of the stride, all phases from
// one strip. A value is summed in the order of its taps, whatever the strips and tasks are.
#pragma once

#include "../arena.h"
#include "../parallel.h"
#include "depthwise_channels_last.h"
#include "depthwise_lanes.h"
#include "depthwise_tiles.h"
#include "plane_strip.h"

namespace convpool::CONVPOOL_ISA {

// The gradient of the input has a phase for each row and column of a stride.
inline constexpr int64_t kMaxPhaseStride = 4;
// Fewer output rows in a strip would copy more than they compute.
inline constexpr int64_t kFewestRows = 8;

// The outputs of a plane that share their taps: see DepthwiseRows. Output rows whose distance is
// not a multiple of `sets` read no row in common; the taps of a piece read rows `unit` apart.
struct DepthwisePhase {
  int64_t row, column, rows, columns;
  int64_t kernel = 1, row_stride = 1, sets = 1, unit = 1;
  int64_t pieces = 0;
  const int64_t* shift;
  const int64_t* weight;  // of each piece and tap, from the channel's first weight
};

template <typename T>
class Depthwise {
  using Tiles = DepthwiseTiles<T>;
  using Rows = DepthwiseRows<T>;
  using V = Vec<T>;
  static constexpr int kLanes = Simd<T>::kLanes;
  // In L2, with as much again of inputs and outputs that pass through it. Smaller strips, in L1,
  // lose more by what neighbouring ones both copy.
  static constexpr int64_t kStripBytes = 64 << 10;

 public:
  // `conv` holds the arrays and their strides; its axes cover what all phases read. The outputs of
  // a phase are every row_step-th row, every out_column_stride-th column of a plane, and axes(row,
  // column, &h, &w) sets its taps; all phases together have `taps`. Returns false where memory is
  // out, like weight_gradient.
  template <typename Axes>
  static bool compute(const TapConvolution<T>& conv, int64_t row_step, int64_t taps,
                      const Axes& axes) {
    Depthwise depthwise(conv, row_step);
    return depthwise.plan(taps, axes) && depthwise.compute_all();
  }

  // `conv` is the forward pass, with `out` the gradient of the output (read only); dweight is
  // (groups * outputs, taps), dense.
  static bool weight_gradient(const TapConvolution<T>& conv, T* dweight) {
    Depthwise depthwise(conv, 1);
    return depthwise.plan(conv.taps(), [](int64_t, int64_t, TapAxis*, TapAxis*) {}) &&
           depthwise.weight_gradient_all(dweight);
  }

 private:
  Depthwise(const TapConvolution<T>& conv, int64_t row_step)
      : conv_(conv),
        strip_(conv.h, conv.w),
        row_step_(row_step),
        column_step_(conv.out_column_stride),
        out_row_(conv.out_row_stride / row_step),
        past_caches_(conv.large_aligned_output() &&
                     (conv.w.out_size | conv.out_row_stride) % kLanes == 0) {
    const int64_t rows = kStripBytes / (conv.channels * strip_.row_pitch() * int64_t{sizeof(T)});
    const int64_t band = (rows - conv.h.extent() - 1) / conv.h.stride + 1;
    bands_ = ceil_div(conv.h.out_size, max_of(kFewestRows, band));
  }

  // Fills the table of phases, which lives in the calling thread's shared scratch.
  template <typename Axes>
  bool plan(int64_t taps, const Axes& axes) {
    Arena arena(Scratch::kShared);
    const size_t shift_at = arena.template reserve<int64_t>(taps);
    const size_t weight_at = arena.template reserve<int64_t>(taps);
    if (!arena.allocate()) return false;
    int64_t* shift = arena.template at<int64_t>(shift_at);
    int64_t* weight = arena.template at<int64_t>(weight_at);
    for (int64_t p = 0; p < row_step_ * column_step_; ++p) {
      TapAxis h = conv_.h, w = conv_.w;
      axes(p / column_step_, p % column_step_, &h, &w);
      DepthwisePhase& phase = phases_[p];
      phase = DepthwisePhase{};
      phase.row = p / column_step_;
      phase.column = p % column_step_;
      phase.rows = h.out_size;
      phase.columns = w.out_size;
      phase.unit = h.stride;
      phase.shift = shift;
      phase.weight = weight;
      join_taps(h, &phase);
      phase.pieces = h.taps * w.taps / phase.kernel;
      for (int64_t i = 0; i < h.taps; i += phase.kernel)
        for (int64_t j = 0; j < w.taps; ++j) {
          *shift++ = strip_.shift(h.offset[i], w.offset[j]);
          for (int64_t k = i; k < i + phase.kernel; ++k)
            *weight++ = h.index[k] * conv_.weight_row_stride + w.index[j];
        }
    }
    return true;
  }

  // Makes pieces of a column's taps where there is a tile for as many.
  static void join_taps(const TapAxis& h, DepthwisePhase* phase) {
    if (h.taps < 2 || !Tiles::functions(h.taps, 1)) return;
    const int64_t step = h.offset[1] - h.offset[0];
    if (step % h.stride == 0) {
      phase->sets = step / h.stride;
      phase->unit = step;
    } else if (step == 1 && h.stride == 2 && Tiles::functions(h.taps, 2)) {
      phase->row_stride = 2;
      phase->unit = 1;
    } else {
      return;
    }
    phase->kernel = h.taps;
  }

  // The rows of a set of a phase; strip and output start at the first output row.
  Rows rows_of_set(const DepthwisePhase& phase, int64_t set, int64_t rows, const T* strip,
                   int64_t channel_pitch, T* out, int64_t out_pitch) const {
    const int64_t count = phase.sets == 1 ? rows : ceil_div(rows - set, phase.sets);
    return {strip + set * conv_.h.stride * strip_.row_pitch(),
            phase.unit * strip_.row_pitch(),
            channel_pitch,
            conv_.channels,
            phase.pieces,
            phase.shift,
            nullptr,
            T(0),
            out + set * out_pitch,
            phase.sets * out_pitch,
            count,
            phase.columns};
  }

  // Runs body(first, end) over ranges of [0, items), several for each thread.
  template <typename Body>
  bool for_each_range(int64_t items, const Body& body) const {
    const int64_t tasks = min_of(items, 8 * num_threads());
    bool failed = false;
    parallel_for(tasks, conv_.multiply_adds(), [&](int64_t task) {
      if (!body(items * task / tasks, items * (task + 1) / tasks))
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  struct Buffers {
    T* strip;
    T* weight;
    T* apart;  // for each phase of the columns, rows that cannot be computed in place
    int64_t apart_pitch, apart_size;
  };

  bool compute_all() const {
    const int64_t planes = conv_.batch * conv_.groups, height = conv_.h.out_size;
    const int64_t wanted = ceil_div(4 * num_threads(), planes);
    const int64_t bands = max_of(bands_, min_of(wanted, height / kFewestRows));
    const int64_t band_rows = ceil_div(height, bands);
    return for_each_range(planes * bands, [&](int64_t first, int64_t end) {
      Buffers buffers{};
      buffers.apart_pitch = max_of(kLanes, conv_.w.out_size);
      buffers.apart_size = band_rows * buffers.apart_pitch;
      Arena arena(Scratch::kTask);
      const size_t strip_at = arena.template reserve<T>(strip_.size(conv_.channels, band_rows));
      const size_t weight_at = arena.template reserve<T>(conv_.channels * most_taps());
      const size_t apart_at = arena.template reserve<T>(column_step_ * buffers.apart_size);
      if (!arena.allocate()) return false;
      buffers.strip = arena.template at<T>(strip_at);
      buffers.weight = arena.template at<T>(weight_at);
      buffers.apart = arena.template at<T>(apart_at);
      // Divisions cost as much as a small plane's multiplications.
      int64_t plane = first / bands, band = first % bands;
      int64_t image = plane / conv_.groups, group = plane % conv_.groups;
      for (int64_t item = first; item < end; ++item) {
        const int64_t row0 = bands == 1 ? 0 : height * band / bands;
        const int64_t row1 = bands == 1 ? height : height * (band + 1) / bands;
        compute_band(image, group, row0, row1, /*clear_padding=*/bands > 1 || item == first,
                     buffers);
        if (++band < bands) continue;
        band = 0;
        if (++group < conv_.groups) continue;
        group = 0;
        ++image;
      }
      if (past_caches_) finish_past_caches();
      return true;
    });
  }

  int64_t most_taps() const {
    int64_t most = 0;
    for (int64_t p = 0; p < row_step_ * column_step_; ++p)
      most = max_of(most, phases_[p].pieces * phases_[p].kernel);
    return most;
  }

  // All outputs of a group that stand in the phases' rows [row0, row1).
  void compute_band(int64_t image, int64_t group, int64_t row0, int64_t row1, bool clear_padding,
                    const Buffers& buffers) const {
    const int64_t channel_pitch = strip_.rows(row1 - row0) * strip_.row_pitch();
    strip_.fill(
        conv_.in + image * conv_.in_image_stride + group * conv_.channels * conv_.in_channel_stride,
        conv_.channels, conv_.in_channel_stride, row0, row1 - row0, clear_padding, buffers.strip);
    const bool in_place = column_step_ == 1 && conv_.w.out_size >= kLanes;
    const int64_t pitch = in_place ? conv_.out_row_stride : buffers.apart_pitch;
    for (int64_t m = 0; m < conv_.outputs; ++m) {
      const int64_t channel = group * conv_.outputs + m;
      const T* weight =
          conv_.weight + group * conv_.weight_group_stride + m * conv_.weight_output_stride;
      T* plane = conv_.out + image * conv_.out_image_stride + channel * conv_.out_channel_stride +
                 row0 * conv_.out_row_stride;
      for (int64_t p = 0; p < row_step_ * column_step_; ++p) {
        const DepthwisePhase& phase = phases_[p];
        const int64_t rows = min_of(row1, phase.rows) - row0;
        if (rows <= 0) continue;
        T* value = buffers.weight;
        for (int64_t c = 0; c < conv_.channels; ++c)
          for (int64_t t = 0; t < phase.pieces * phase.kernel; ++t)
            *value++ = weight[c * conv_.weight_channel_stride + phase.weight[t]];
        T* place = plane + phase.row * out_row_;
        T* to = in_place ? place : buffers.apart + phase.column * buffers.apart_size;
        for (int64_t set = 0; set < min_of(phase.sets, rows); ++set) {
          Rows job = rows_of_set(phase, set, rows, buffers.strip, channel_pitch, to, pitch);
          job.weight = buffers.weight;
          job.bias = conv_.bias ? conv_.bias[channel] : T(0);
          if (in_place) {
            job.past_caches = past_caches_;
            job.epilogue = conv_.epilogue;
            job.epilogue.sum = conv_.epilogue.sum_at(job.out, conv_.out);
          }
          Tiles::functions(phase.kernel, phase.row_stride)->compute_rows(job);
        }
        if (!in_place && phase.column == column_step_ - 1)
          put_in_place(&phases_[p - phase.column], rows, buffers, place);
      }
    }
  }

  // The epilogue of rows shorter than a vector.
  void finish(int64_t rows, int64_t columns, T* to) const {
    const T* sum = conv_.epilogue.sum_at(to, conv_.out);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t k = 0; k < columns; ++k) {
        const int64_t at = row * conv_.out_row_stride + k;
        to[at] = conv_.epilogue.apply(sum ? to[at] + sum[at] : to[at]);
      }
  }

  // Rows of all phases of the columns to where they belong.
  void put_in_place(const DepthwisePhase* phases, int64_t rows, const Buffers& buffers,
                    T* to) const {
    const T* from = buffers.apart;
    const int64_t pitch = buffers.apart_pitch, size = buffers.apart_size;
    const int64_t out_pitch = conv_.out_row_stride, step = column_step_;
    if (step == 1) {  // rows shorter than a vector
      const int64_t columns = phases[0].columns;
      for (int64_t row = 0; row < rows; ++row)
        copy_short<T, kLanes / 2>(to + row * out_pitch, from + row * pitch, columns);
      if (conv_.epilogue.active) finish(rows, columns, to);
    } else if (step == 2) {
      const int64_t columns = phases[0].columns + phases[1].columns;
      for (int64_t row = 0; row < rows; ++row)
        interleave_columns(to + row * out_pitch, from + row * pitch, from + size + row * pitch,
                           columns);
    } else {
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t phase = 0; phase < step; ++phase)
          for (int64_t k = 0; k < phases[phase].columns; ++k)
            to[row * out_pitch + phase + k * step] = from[phase * size + row * pitch + k];
    }
  }

  // Bands and images decide the order of a sum, so they do not depend on the number of threads. The
  // outputs of a channel are split where channels are few.
  bool weight_gradient_all(T* dweight) const {
    const int64_t parts = min_of(conv_.outputs, ceil_div(2 * num_threads(), conv_.groups));
    return for_each_range(conv_.groups * parts, [&](int64_t first, int64_t end) {
      const int64_t rows = ceil_div(conv_.h.out_size, bands_);
      Arena arena(Scratch::kTask);
      const size_t strip_at = arena.template reserve<T>(strip_.size(1, rows));
      const size_t gradient_at = arena.template reserve<T>(rows * conv_.w.out_size + kLanes);
      const size_t sums_at =
          arena.template reserve<V>(ceil_div(conv_.outputs, parts) * conv_.taps());
      if (!arena.allocate()) return false;
      for (int64_t item = first; item < end; ++item)
        output_gradients(item / parts, conv_.outputs * (item % parts) / parts,
                         conv_.outputs * (item % parts + 1) / parts, item == first,
                         arena.template at<T>(strip_at), arena.template at<T>(gradient_at),
                         arena.template at<V>(sums_at), dweight);
      return true;
    });
  }

  // Of the outputs [m0, m1) of a group.
  void output_gradients(int64_t group, int64_t m0, int64_t m1, bool clear_padding, T* strip,
                        T* gradient, V* sums, T* dweight) const {
    const DepthwisePhase& phase = phases_[0];
    const auto add_rows = Tiles::functions(phase.kernel, phase.row_stride)->add_rows;
    const int64_t taps = conv_.taps(), columns = conv_.w.out_size, height = conv_.h.out_size;
    for (int64_t t = 0; t < (m1 - m0) * taps; ++t) sums[t] = V{};
    for (int64_t image = 0; image < conv_.batch; ++image)
      for (int64_t band = 0; band < bands_; ++band) {
        const int64_t row0 = height * band / bands_;
        const int64_t rows = height * (band + 1) / bands_ - row0;
        strip_.fill(conv_.in + image * conv_.in_image_stride + group * conv_.in_channel_stride, 1,
                    0, row0, rows, bands_ > 1 || (clear_padding && image == 0), strip);
        for (int64_t m = m0; m < m1; ++m) {
          T* dy = conv_.out + image * conv_.out_image_stride +
                  (group * conv_.outputs + m) * conv_.out_channel_stride + row0 * columns;
          if (columns < kLanes) {  // its last vector would reach behind the plane
            gather_columns(gradient, dy, rows * columns, 1);
            dy = gradient;
          }
          for (int64_t set = 0; set < min_of(phase.sets, rows); ++set)
            add_rows(rows_of_set(phase, set, rows, strip, 0, dy, columns), sums + (m - m0) * taps);
        }
      }
    for (int64_t m = m0; m < m1; ++m)
      for (int64_t t = 0; t < taps; ++t, ++sums) {
        T sum = 0;
        for (int lane = 0; lane < kLanes; ++lane) sum += (*sums)[lane];
        dweight[(group * conv_.outputs + m) * taps + phase.weight[t]] = sum;
      }
  }

  const TapConvolution<T> conv_;
  const PlaneStrip<T> strip_;
  const int64_t row_step_, column_step_;
  const int64_t out_row_;  // values from one row of an output plane to the next
  const bool past_caches_;
  int64_t bands_;  // of a plane's rows, so that a band's strip stays in cache
  DepthwisePhase phases_[kMaxPhaseStride * kMaxPhaseStride];
};

namespace depthwise {

// Values; what reads a larger strip waits for memory.
inline constexpr int64_t kLargestStrip = 64 << 10;

// The axis that one strip for all phases of the input's gradient covers: from the first position
// that a tap can read to the last. `offset` has room for two.
inline void backward_span(const convpool_window& window, int d, int64_t* offset, TapAxis* axis) {
  const int64_t stride = window.stride[d];
  offset[0] = (window.pad[d] - (window.kernel[d] - 1) * window.dilation[d]) / stride;
  offset[1] = (window.pad[d] + stride - 1) / stride;
  *axis = {window.out_size[d], ceil_div(window.in_size[d], stride), 1, 2, offset, nullptr};
}

// Values in the strip that one band of the fewest rows needs.
inline int64_t smallest_strip(const convpool_convolution& conv, convpool_pass pass) {
  const convpool_window& window = conv.window;
  int64_t offset[2], size[2];
  for (int d = 0; d < 2; ++d) {
    TapAxis axis{0, window.out_size[d], window.stride[d], 0, nullptr, nullptr};
    int64_t extent = (window.kernel[d] - 1) * window.dilation[d];
    if (pass == CONVPOOL_BACKWARD_DATA) {
      backward_span(window, d, offset, &axis);
      extent = axis.extent();
    }
    const int64_t outputs = d == 0 ? min_of(axis.out_size, kFewestRows) : axis.out_size;
    size[d] = outputs * axis.stride + extent;
  }
  const int64_t channels = pass == CONVPOOL_BACKWARD_DATA ? conv.out_channels / conv.groups : 1;
  return channels * size[0] * size[1];
}

inline bool supports(const convpool_convolution& conv, convpool_pass pass) {
  const convpool_window& window = conv.window;
  if (window.kernel[2] != 1 || window.in_size[2] != 1 || window.out_size[2] != 1) return false;
  if (conv.groups != conv.in_channels || smallest_strip(conv, pass) > kLargestStrip) return false;
  return pass != CONVPOOL_BACKWARD_DATA ||
         (conv.window.stride[0] <= kMaxPhaseStride && conv.window.stride[1] <= kMaxPhaseStride);
}

// Are arrays with channels last read and written as they are?
template <typename T>
inline bool any_layout(const convpool_convolution& conv) {
  return DepthwiseChannelsLast<T>::fits(conv);
}

// Measured: this takes 2.2 times what the multiply-adds alone would take, and more where a vector
// is as long as a cache line, because most taps then read from two lines.
inline double cost(const convpool_convolution& conv, convpool_pass) {
  constexpr double kPerTap = kVectorBytes < 64 ? 2.2 : 2.5;
  const convpool_window& window = conv.window;
  return kPerTap * static_cast<double>(conv.batch * conv.out_channels) *
         static_cast<double>(window.kernel[0] * window.kernel[1]) *
         static_cast<double>(window.out_size[0] * window.out_size[1]);
}

// By the kernel that suits the size of the planes.
template <typename T, typename Axes>
inline bool compute(const TapConvolution<T>& problem, int64_t row_step, int64_t taps,
                    const Axes& axes) {
  return DepthwiseLanes<T>::fits(problem, row_step)
             ? DepthwiseLanes<T>::compute(problem, row_step, taps, axes)
             : Depthwise<T>::compute(problem, row_step, taps, axes);
}

template <typename T>
inline bool forward(const convpool_convolution& conv, const T* x, const T* weight, const T* bias,
                    const Epilogue<T>& epilogue, T* y) {
  return with_forward_problem(
      conv, x, weight, bias, epilogue, y, [&](const TapConvolution<T>& problem) {
        if (conv.layout == CONVPOOL_CHANNEL_LAST) return DepthwiseChannelsLast<T>::forward(problem);
        return compute<T>(problem, 1, problem.taps(), [](int64_t, int64_t, TapAxis*, TapAxis*) {});
      });
}

template <typename T>
inline bool backward_data(const convpool_convolution& conv, const T* dy, const T* weight, T* dx) {
  const TapStorage taps(conv.window);
  if (!taps.get()) return false;
  TapConvolution<T> problem = backward_problem<T>(conv, taps.get());
  problem.in = dy;
  problem.weight = weight;
  problem.out = dx;
  if (conv.layout == CONVPOOL_CHANNEL_LAST)
    return DepthwiseChannelsLast<T>::backward_data(conv.window, problem);
  const TapAxis h = problem.h, w = problem.w;
  int64_t offset[2][2];
  backward_span(conv.window, 0, offset[0], &problem.h);
  backward_span(conv.window, 1, offset[1], &problem.w);
  return compute<T>(problem, conv.window.stride[0], h.taps * w.taps,
                    [&](int64_t row, int64_t column, TapAxis* to_h, TapAxis* to_w) {
                      *to_h = h;
                      *to_w = w;
                      backward_taps(conv.window, 0, row, to_h);
                      backward_taps(conv.window, 1, column, to_w);
                    });
}

template <typename T>
inline bool backward_weight(const convpool_convolution& conv, const T* x, const T* dy, T* dweight) {
  return with_weight_gradient_problem(conv, x, dy, [&](const TapConvolution<T>& problem) {
    if (conv.layout == CONVPOOL_CHANNEL_LAST)
      return DepthwiseChannelsLast<T>::weight_gradient(problem, dweight);
    return DepthwiseLanes<T>::fits(problem, 1)
               ? DepthwiseLanes<T>::weight_gradient(problem, dweight)
               : Depthwise<T>::weight_gradient(problem, dweight);
  });
}

}  // namespace depthwise

}  // namespace convpool::CONVPOOL_ISA
