// Convolution as a matrix product whose right side is never built: C[outputs x positions] =
// A[outputs x reduction] * B[reduction x positions]. The micro-kernel reads B's micro-panels in a
// strip of the padded image, where a tap's values for neighbouring positions of a row are
// neighbours; panels that reach over the end of a row, or that many outputs use for a single tap,
// are cut out of the strip first.
//
// One task is a range of output positions of one group and one set of images, and a range of its
// outputs. A set is one image, or all of them where an image alone would leave much of its last
// panel empty. A value of C is summed by one task, in the same order whatever the tasks are.
#pragma once

#include "../arena.h"
#include "../gemm/dot_products.h"
#include "../gemm/micro_kernel.h"
#include "../parallel.h"
#include "strip.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class ImplicitGemm {
  using Block = Blocks<T>;
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kNr = Block::kNr;
  // A strip larger than this would push the weights out of L2.
  static constexpr int64_t kStripBytes = 192 << 10;
  // As much of A as may stay in L2.
  static constexpr int64_t kBlockBytes = 64 << 10;
  // Of L1, with as much again for A and C.
  static constexpr int64_t kL1Bytes = 16 << 10;
  // Panels of B that are cut together: as many as fit L1, and enough to read some cache lines of
  // each channel at once.
  static constexpr int64_t kCutBytes = 32 << 10;
  static constexpr int64_t kFewestCut = 6;
  static constexpr int64_t kFewestFilled = 8, kPlacesOfFilled = 9;
  // A last panel of so few positions is computed by dot products over the reduction.
  static constexpr int64_t kFewPositions = 4;
  // So few outputs take the time in which a few panels of B come from memory.
  static constexpr int64_t kFewOutputs = 2;
  static constexpr int64_t kFewReaders = 2;  // panels of A that read a panel of B
  // While channels of B are cut, those so much farther are brought to the cache.
  static constexpr int64_t kCutAhead = 4;
  // Channels of A that are packed for one panel after the other.
  static constexpr int64_t kPackedTogether = 8;
  static constexpr int64_t kBytes = sizeof(T);

 public:
  // Images of so few positions join in a set where they leave a ninth of their own panels empty.
  // With more of them, writing outputs that are no neighbours takes longer than what is saved
  // (measured with 49 and 196).
  static constexpr int64_t kMostJoined = 32;

  // Where few outputs read a panel of B, to cut it takes as long as to compute with it. If the rows
  // of the output fill most of their vectors, each vector of a panel is read in its own row. Few
  // panels reach over the end of a wide row.
  static bool reads_by_rows(int64_t outputs, int64_t taps, int64_t width) {
    constexpr int64_t kFilled = 4, kOf = 5, kWide = 2 * kNr;
    return kMasks && taps > 1 && outputs <= kFewReaders * Block::kMr && width < kWide &&
           width % kNr != 0 && width * kOf >= ceil_div(width, kLanes) * kLanes * kFilled;
  }

  // Panels of A that a panel of B with a single tap is read for where it stands.
  static constexpr int64_t kReadInPlace = 4;

  // Positions of an image as the products count them, where weights are read in place: whole
  // vectors, but for a last panel of few.
  static int64_t vector_positions(int64_t positions) {
    return few_positions(positions % kNr) ? positions : ceil_div(positions, kLanes) * kLanes;
  }

  // Runs `conv`. Returns false where memory is out.
  static bool run(const TapConvolution<T>& conv) {
    const ImplicitGemm gemm(conv);
    return gemm.run();
  }

 private:
  explicit ImplicitGemm(const TapConvolution<T>& conv) : conv_(conv) {
    const int64_t taps = conv.taps(), own_panels = ceil_div(conv.positions(), kNr);
    const bool join = !conv.joined && conv.positions() <= kMostJoined &&
                      own_panels * kNr * kFewestFilled > conv.positions() * kPlacesOfFilled;
    set_ = join ? conv.images() : 1;
    by_rows_ = !join && !conv.joined && conv.out_column_stride == 1 &&
               reads_by_rows(conv.outputs, taps, conv.w.out_size);
    width_ = by_rows_ ? ceil_div(conv.w.out_size, kLanes) * kLanes : conv.w.out_size;
    panels_ = ceil_div(set_ * conv.h.out_size * width_, kNr);

    // In place, weights are read with one stream a row; packed, with one stream in all, which is a
    // little faster and pays once they are read often. Dot products need them in place.
    const bool few_last = !by_rows_ && few_positions(set_ * conv.positions() % kNr);
    pack_ = !conv.weight_in_order() || (sets() * panels_ > 40 && !few_last);
    // A matrix whose rows lie side by side is as good as packed, if it stays in cache.
    strided_ = !conv.weight_in_order() && taps == 1 && conv.planes() == conv.channels &&
               conv.weight_output_stride == 1 && conv.weight_channel_stride * kBytes % 4096 != 0 &&
               conv.channels * conv.weight_channel_stride * kBytes <= kBlockBytes;
    if (strided_) pack_ = false;
    // Rows a multiple of a page apart share a set of L1, which has 8 places or more.
    const bool rows_collide = !pack_ && !strided_ && conv.weight_output_stride * kBytes % 4096 == 0;
    output_panels_ = ceil_div(conv.outputs, rows_collide ? min_of(Block::kMr, 7) : Block::kMr);

    // A task's panels of B have kPanels * kKc rows in all: few panels are long, short ones are
    // many.
    const int64_t rows_of_b = Block::kPanels * Block::kKc;
    const int64_t longest =
        min_of(conv.reduction(), max_of(Block::kKc, min_of(4 * Block::kKc, rows_of_b / panels_)));
    const int64_t task_panels =
        max_of(1, min_of(rows_of_b / max_of(longest, taps), 2 * Block::kPanels));
    plan_tasks(task_panels);

    // Chunks decide the order of a sum, so they must not depend on the number of threads: what
    // counts is the largest task that there could be.
    const int64_t rows = min_of(task_panels * kNr / width_ + 2, conv.h.out_size);
    const int64_t strip_row = conv.w.out_size * conv.w.stride + conv.w.extent();
    const int64_t images = min_of(task_panels * kNr / conv.positions() + 2, set_);
    const int64_t strip_channel =
        images * (rows * conv.h.stride + conv.h.extent()) * strip_row * kBytes;
    int64_t per_chunk = longest / taps;
    if (!image_in_place()) per_chunk = min_of(per_chunk, kStripBytes / strip_channel);
    chunks_ = ceil_div(conv.planes(), max_of(1, per_chunk));
    // Parts of lines of rows a multiple of a page apart wait for each other: on a Zen 3 outputs
    // stored so took 1.2 to 1.6 times as long as through the caches. With AVX-512 a vector is a
    // whole line.
    constexpr bool kWholeLines = kVectorBytes >= 64;
    past_caches_ = chunks_ == 1 && conv.large_aligned_output() &&
                   (kWholeLines || conv.out_channel_stride * kBytes % 4096 != 0);
  }

  static bool few_positions(int64_t count) {
    return count > 0 && count <= kFewPositions && count < kNr;
  }
  int64_t sets() const { return conv_.images() / set_; }
  // The image itself is read in place of a strip where each output reads what stands at its own
  // position.
  bool image_in_place() const { return set_ == 1 && conv_.is_pointwise(); }

  // Splits the positions of a set and the outputs of a group into tasks so that the threads end
  // early together. Tasks that share positions cut the same panels of B, tasks that share outputs
  // read the same panels of A. Costs are in products of two panels, which a cut takes the time of,
  // and reading a panel of A from beyond L2 half of.
  void plan_tasks(int64_t most_panels) {
    const int64_t sets_of_groups = sets() * conv_.groups, threads = num_threads();
    const int64_t fewest = ceil_div(panels_, most_panels);
    const int64_t most =
        min_of(panels_, max_of(fewest, ceil_div(2 * threads, sets_of_groups)) + threads);
    double best = 0;
    position_tasks_ = 0;
    for (int64_t positions = fewest; positions <= most; ++positions)
      for (int64_t outputs = 1; outputs <= min_of(threads, output_panels_); ++outputs) {
        const double panels = static_cast<double>(ceil_div(panels_, positions));
        const double output_panels = static_cast<double>(ceil_div(output_panels_, outputs));
        const double task = panels * (output_panels + 1) + 0.5 * output_panels;
        const double cost =
            static_cast<double>(ceil_div(sets_of_groups * positions * outputs, threads)) * task;
        if (position_tasks_ != 0 && cost >= best) continue;
        best = cost;
        position_tasks_ = positions;
        output_tasks_ = outputs;
      }
  }

  bool run() const {
    const T* packed = nullptr;
    if (pack_) {
      packed = pack_weights();
      if (!packed) return false;
    }
    const int64_t tasks_per_set = position_tasks_ * output_tasks_;
    bool failed = false;
    parallel_for(sets() * conv_.groups * tasks_per_set, conv_.multiply_adds(), [&](int64_t task) {
      const int64_t set = task / tasks_per_set;
      if (!compute(set / conv_.groups * set_, set % conv_.groups,
                   task % tasks_per_set / output_tasks_, task % output_tasks_, packed))
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  int64_t chunk_begin(int64_t chunk) const { return conv_.planes() * chunk / chunks_; }
  // Rows are spread evenly over the panels of A: two panels of 5 run faster than one of 6 and 4.
  int64_t output_begin(int64_t panel) const { return conv_.outputs * panel / output_panels_; }

  // All of A as [group][chunk][panel][k][row].
  const T* pack_weights() const {
    const int64_t taps = conv_.taps(), group_size = conv_.outputs * conv_.reduction();
    Arena arena(Scratch::kShared);
    const size_t packed_at = arena.template reserve<T>(conv_.groups * group_size);
    const size_t tap_at = arena.template reserve<int64_t>(taps);
    if (!arena.allocate()) return nullptr;
    T* packed = arena.template at<T>(packed_at);
    int64_t* tap_offset = arena.template at<int64_t>(tap_at);
    for (int64_t i = 0; i < conv_.h.taps; ++i)
      for (int64_t j = 0; j < conv_.w.taps; ++j)
        tap_offset[i * conv_.w.taps + j] =
            conv_.h.index[i] * conv_.weight_row_stride + conv_.w.index[j];

    // Channels [first, end) of a chunk [c0, c1).
    const auto pack = [&](int64_t group, int64_t panel, int64_t c0, int64_t c1, int64_t first,
                          int64_t end) {
      const int64_t m0 = output_begin(panel), rows = output_begin(panel + 1) - m0;
      const int64_t row_step = conv_.weight_output_stride;
      T* to = packed + group * group_size +
              (conv_.outputs * c0 + m0 * (c1 - c0) + (first - c0) * rows) * taps;
      const T* panel_weight = conv_.weight + group * conv_.weight_group_stride + m0 * row_step;
      for (int64_t c = first; c < end; ++c) {
        const T* channel = panel_weight + conv_.weight_offset(c);
        for (int64_t t = 0; t < taps; ++t, to += rows) {
          const T* tap = channel + tap_offset[t];
          for (int64_t row = 0; row < rows; ++row) to[row] = tap[row * row_step];
        }
      }
    };
    const double moved = static_cast<double>(conv_.groups * group_size);
    // Weights are read in the order in which they lie. A few channels together, because a panel of
    // A lies pages away from the next, like a channel of the weights.
    const bool outputs_first = conv_.weight_output_stride > conv_.weight_channel_stride;
    const int64_t pieces = outputs_first ? output_panels_ : min_of(conv_.planes(), 64);
    parallel_for(conv_.groups * pieces, moved, [&](int64_t task) {
      const int64_t group = task / pieces, piece = task % pieces;
      for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
        const int64_t c0 = chunk_begin(chunk), c1 = chunk_begin(chunk + 1);
        if (outputs_first) {
          pack(group, piece, c0, c1, c0, c1);
          continue;
        }
        const int64_t first = max_of(c0, conv_.planes() * piece / pieces);
        const int64_t end = min_of(c1, conv_.planes() * (piece + 1) / pieces);
        for (int64_t few = first; few < end; few += kPackedTogether)
          for (int64_t panel = 0; panel < output_panels_; ++panel)
            pack(group, panel, c0, c1, few, min_of(few + kPackedTogether, end));
      }
    });
    return packed;
  }

  // The strips of the images that a task reads, one behind the other in each channel.
  struct Strips : StripShape {
    int64_t first_image, images;
    int64_t image_pitch;

    Strips(const StripShape& one, int64_t first, int64_t count)
        : StripShape(one), first_image(first), images(count), image_pitch(one.channel_pitch) {
      this->channel_pitch *= count;
    }
  };

  // For positions [p0, p1) of the set that begins with an image.
  Strips strips(int64_t set_begin, int64_t p0, int64_t p1) const {
    const int64_t width = width_, plane = conv_.h.out_size * width;
    const int64_t first = p0 / plane, images = (p1 - 1) / plane - first + 1;
    const int64_t begin = p0 - first * plane, end = p1 - first * plane;  // of a single image
    const int64_t row0 = images > 1 ? 0 : begin / width;
    const int64_t row1 = images > 1 ? conv_.h.out_size : (end - 1) / width + 1;
    const bool one_row = images == 1 && row1 - row0 == 1;
    return {{conv_.h, conv_.w, row0, row1, one_row ? begin - row0 * width : 0,
             one_row ? min_of(end - row0 * width, conv_.w.out_size) : conv_.w.out_size},
            set_begin + first,
            images};
  }

  // A run of one micro-panel's positions that lie in one output row.
  struct Segment {
    int64_t to;          // in the output, from its first value
    int64_t from;        // in the strips, for the first tap
    int64_t at, length;  // in the panel
  };

  int64_t find_segments(int64_t set_begin, int64_t position, int64_t count, const Strips& strip,
                        Segment* segments) const {
    const int64_t plane = conv_.positions(), width = conv_.w.out_size;
    int64_t n = 0;
    for (int64_t at = 0; at < count; ++n) {
      const int64_t image = set_ == 1 ? 0 : (position + at) / plane;
      const int64_t row = (position + at - image * plane) / width;
      const int64_t column = position + at - image * plane - row * width;
      const int64_t length = min_of(width - column, count - at);
      segments[n] = {conv_.out_image(set_begin + image) - conv_.out + row * conv_.out_row_stride +
                         column * conv_.out_column_stride,
                     (set_begin + image - strip.first_image) * strip.image_pitch +
                         (row - strip.row0) * strip.row_step + column - strip.column0,
                     at, length};
      at += length;
    }
    return n;
  }

  // Cuts one micro-panel from the strip, for positions that are not neighbours there. Each segment
  // is copied in whole vectors; what runs over is overwritten by the next segment or row, and the
  // panel has room for one vector behind its last row.
  template <int Vectors>
  static void cut_panel(const T* strip, int64_t channels, int64_t channel_pitch,
                        const int64_t* tap_shift, int64_t taps, const Segment* segments,
                        int64_t segment_count, T* to) {
    for (int64_t c = 0; c < channels; ++c, strip += channel_pitch)
      for (int64_t t = 0; t < taps; ++t, to += Vectors * kLanes) {
        const T* tap = strip + tap_shift[t];
        for (int64_t s = 0; s < segment_count; ++s) {
          const T* from = tap + segments[s].from;
          T* place = to + segments[s].at;
          for (int64_t k = 0; k < segments[s].length; k += kLanes)
            store<T>(place + k, load<T>(from + k));
        }
      }
  }

  // Cuts a panel of few positions from the strip: what the taps read for each of them, side by
  // side.
  static void cut_columns(const T* strip, int64_t length, const int64_t* k_offset,
                          const Segment* segments, int64_t segment_count, T* to) {
    for (const Segment* s = segments; s < segments + segment_count; ++s)
      for (int64_t i = 0; i < s->length; ++i, to += length)
        for (int64_t k = 0; k < length; ++k) to[k] = strip[s->from + i + k_offset[k]];
  }

  using CutPanel = void (*)(const T*, int64_t, int64_t, const int64_t*, int64_t, const Segment*,
                            int64_t, T*);
  static CutPanel cut_panel_function(int64_t vectors) {
    static_assert(Block::kNv <= 3, "a row for each number of vectors");
    static constexpr CutPanel kTable[] = {cut_panel<1>, cut_panel<2>, cut_panel<3>};
    return kTable[vectors - 1];
  }

  struct PanelOfB {
    int64_t position, count;  // of the set's flattened outputs
    int64_t vectors, segment_count;
    bool dense;    // are its outputs neighbours, and fill whole vectors?
    bool columns;  // does each position have its reduction side by side?
    SideB<T> side;
    Segment segments[kNr];
    int64_t vector_offset[Block::kNv];
    PieceOfC pieces[Block::kNv];
  };

  // Where the vectors of a panel are, each in a row of its own, relative to the first.
  void find_pieces(int64_t position, const Strips& strip, PanelOfB* panel) const {
    const int64_t image = strip.first_image;
    for (int64_t v = 0; v < panel->vectors; ++v, position += kLanes) {
      const int64_t row = position / width_, column = position - row * width_;
      const int64_t to = conv_.out_image(image) - conv_.out + row * conv_.out_row_stride + column;
      const int64_t from = (row - strip.row0) * strip.row_step + column - strip.column0;
      if (v == 0) panel->segments[0] = {to, from, 0, kLanes};
      panel->pieces[v] = {to - panel->segments[0].to, min_of(kLanes, conv_.w.out_size - column)};
      panel->vector_offset[v] = from - panel->segments[0].from;
    }
    panel->segment_count = 1;
  }

  // What a cut does to the values of one channel.
  struct Scaling {
    Vec<T> scale, shift;
    T lowest;

    CONVPOOL_INLINE Vec<T> apply(Vec<T> v) const {
      v = v * scale + shift;
      return v < lowest ? broadcast<T>(lowest) : v;
    }
  };
  CONVPOOL_INLINE Scaling scaling(int64_t channel) const {
    const JoinedInput<T>& joined = *conv_.joined;
    return {broadcast<T>(joined.scale[channel]), broadcast<T>(joined.shift[channel]),
            joined.lowest};
  }
  bool is_scaled() const { return conv_.joined && conv_.joined->scale; }

  // Where the value of the first position of the task is, for channels [c0, c0 + channels) of a
  // single tap whose positions all follow one another.
  void find_channels(const T* source, int64_t channel_pitch, int64_t image, int64_t first_position,
                     int64_t c0, int64_t channels, const T** from) const {
    if (!conv_.joined) {
      for (int64_t c = 0; c < channels; ++c) from[c] = source + c * channel_pitch;
      return;
    }
    const JoinedInput<T>& joined = *conv_.joined;
    const int64_t plane = conv_.in_channel_stride;
    int64_t begin = 0;
    for (int64_t piece = 0; piece < joined.pieces; begin += joined.channels[piece++]) {
      const T* data = joined.data[piece] + image * joined.channels[piece] * plane + first_position;
      const int64_t first = max_of(c0, begin);
      const int64_t end = min_of(c0 + channels, begin + joined.channels[piece]);
      for (int64_t c = first; c < end; ++c) from[c - c0] = data + (c - begin) * plane;
    }
  }

  // Cuts whole panels [first, end) of such a tap. Channels lie pages apart, so a channel of several
  // panels is read at once.
  template <bool Scaled>
  void cut_whole_panels(const T* const* channel, int64_t chunk_begin, int64_t first, int64_t end,
                        int64_t c0, int64_t c1, T* panels, int64_t panel_pitch) const {
    for (int64_t c = c0; c < c1; ++c) {
      const T* from = channel[c] + first * kNr;
      const T* ahead = channel[min_of(c + kCutAhead, c1 - 1)] + first * kNr;
      for (int64_t k = 0; k < (end - first) * kNr; k += 64 / kBytes) __builtin_prefetch(ahead + k);
      T* to = panels + c * kNr + first * panel_pitch;
      Scaling change{};
      if (Scaled) change = scaling(chunk_begin + c);
      for (int64_t i = first; i < end; ++i, from += kNr, to += panel_pitch)
#pragma GCC unroll 4
        for (int v = 0; v < Block::kNv; ++v) {
          const Vec<T> value = load<T>(from + v * kLanes);
          store<T>(to + v * kLanes, Scaled ? change.apply(value) : value);
        }
    }
  }

  // The same for the last panel, `count` positions wide, with nothing read behind them.
  void cut_last_panel(const T* const* channel, int64_t chunk_begin, int64_t position, int64_t count,
                      int64_t channels, T* to) const {
    const int64_t rest = count % kLanes, whole = count - rest;
    T* const panel = to;
    for (int64_t c = 0; c < channels; ++c) {
      const T* from = channel[c] + position;
      for (int64_t k = 0; k < whole; k += kLanes, to += kLanes) store<T>(to, load<T>(from + k));
      if (rest == 0) continue;
      store<T>(to, Vec<T>{});
      copy_short<T, kLanes / 2>(to, from + whole, rest);
      to += kLanes;
    }
    if (!is_scaled()) return;
    const int64_t vectors = ceil_div(count, kLanes);
    for (int64_t c = 0; c < channels; ++c) {
      const Scaling change = scaling(chunk_begin + c);
      for (int64_t v = 0; v < vectors; ++v) {
        T* place = panel + (c * vectors + v) * kLanes;
        store<T>(place, change.apply(load<T>(place)));
      }
    }
  }

  // The same with the channels of each position side by side.
  void cut_pointwise_columns(const T* const* channel, int64_t chunk_begin, int64_t position,
                             int64_t count, int64_t channels, T* to) const {
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t k = 0; k < count; ++k) {
        T value = channel[c][position + k];
        if (is_scaled()) value = scaling(chunk_begin + c).apply(broadcast<T>(value))[0];
        to[k * channels + c] = value;
      }
  }

  // Of the set that begins with an image.
  bool compute(int64_t set_begin, int64_t group, int64_t position_task, int64_t output_task,
               const T* packed) const {
    const int64_t positions = set_ * conv_.h.out_size * width_, taps = conv_.taps();
    const int64_t p0 = panels_ * position_task / position_tasks_ * kNr;
    const int64_t p1 = min_of(positions, panels_ * (position_task + 1) / position_tasks_ * kNr);
    const int64_t panel0 = output_panels_ * output_task / output_tasks_;
    const int64_t panel1 = output_panels_ * (output_task + 1) / output_tasks_;
    if (p0 >= p1 || panel0 >= panel1) return true;

    const Strips strip = strips(set_begin, p0, p1);
    const bool in_place = image_in_place();
    const int64_t chunk_channels = ceil_div(conv_.planes(), chunks_);
    const int64_t longest = chunk_channels * taps;
    const int64_t panel_count = ceil_div(p1 - p0, kNr);

    Arena arena(Scratch::kTask);
    const size_t strip_at =
        arena.template reserve<T>(in_place ? 0 : chunk_channels * strip.channel_pitch + kNr);
    const size_t panel_at = arena.template reserve<T>(panel_count * longest * kNr + kLanes);
    const size_t panels_at = arena.template reserve<PanelOfB>(panel_count);
    const size_t shift_at = arena.template reserve<int64_t>(taps);
    const size_t offset_at = arena.template reserve<int64_t>(longest);
    const size_t channel_at = arena.template reserve<const T*>(taps == 1 ? chunk_channels : 0);
    if (!arena.allocate()) return false;
    T *strip_data = arena.template at<T>(strip_at), *panel_data = arena.template at<T>(panel_at);
    PanelOfB* panels = arena.template at<PanelOfB>(panels_at);
    int64_t* tap_shift = arena.template at<int64_t>(shift_at);
    for (int64_t i = 0; i < conv_.h.taps; ++i)
      for (int64_t j = 0; j < conv_.w.taps; ++j)
        tap_shift[i * conv_.w.taps + j] = strip.tap_shift(conv_.h, conv_.w, i, j);
    const int64_t channel_pitch = in_place ? conv_.in_channel_stride : strip.channel_pitch;
    int64_t* k_offset = arena.template at<int64_t>(offset_at);
    for (int64_t k = 0; k < longest; ++k)
      k_offset[k] = k / taps * channel_pitch + tap_shift[k % taps];
    const T** channel_data = arena.template at<const T*>(channel_at);
    const bool rows_follow =
        in_place || (strip.row_step == conv_.w.out_size &&
                     (strip.images == 1 || strip.image_pitch == conv_.positions()));
    // Neighbouring taps read the same cache lines, so that a panel read in place stays in L1. A
    // single tap has lines of its own for each channel, up to three for two vectors; a multiple of
    // a page apart they share a set of L1, which has 8 places or more.
    const bool collide = channel_pitch * kBytes % 4096 == 0 && chunk_channels > 8;
    const int64_t most_in_place = collide ? 1 : kReadInPlace;
    const bool cut_all = taps == 1 && (panel1 - panel0 > most_in_place || conv_.joined);
    const bool single_run = taps == 1 && rows_follow;

    int64_t row_offset[Block::kMr];
    for (int64_t m = 0; m < Block::kMr; ++m) row_offset[m] = m * conv_.weight_output_stride;

    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      const int64_t c0 = chunk_begin(chunk), channels = chunk_begin(chunk + 1) - c0;
      const T* source = strip_data;
      if (conv_.joined)
        source = nullptr;
      else if (in_place)
        source = conv_.in_slice(set_begin, 0) +
                 (group * conv_.channels + c0) * conv_.in_channel_stride +
                 strip.row0 * conv_.w.in_size + strip.column0;
      else
        for (int64_t i = 0; i < strip.images; ++i)
          fill_strip(conv_, strip, strip.first_image + i, group, c0, channels,
                     strip_data + i * strip.image_pitch);
      const PanelOfB* last = nullptr;  // that is to be cut narrower than the others
      for (int64_t p = p0; p < p1; p += kNr) {
        PanelOfB& b = panels[(p - p0) / kNr];
        b.position = p;
        b.count = min_of(kNr, p1 - p);
        b.vectors = ceil_div(b.count, kLanes);
        if (by_rows_) {
          find_pieces(p, strip, &b);
          b.dense = b.columns = false;
          b.side = {source + b.segments[0].from, k_offset, 0, b.vector_offset};
          continue;
        }
        b.segment_count = find_segments(set_begin, p, b.count, strip, b.segments);
        const Segment& end = b.segments[b.segment_count - 1];
        b.dense = conv_.dense_output() && b.count == b.vectors * kLanes &&
                  end.to - b.segments[0].to == end.at;
        b.columns = !pack_ && !strided_ && !b.dense && few_positions(b.count);
        // The last vector may reach behind the end of a strip, but not of an image.
        const bool readable = !in_place || b.count == b.vectors * kLanes;
        if (!cut_all && !b.columns && readable && (b.segment_count == 1 || rows_follow)) {
          // Few products wait for a row that is not in cache.
          const int64_t ahead = in_place ? (conv_.outputs <= kFewOutputs ? 4 : 1) * kNr : 0;
          b.side = {source + b.segments[0].from, k_offset, ahead};
          continue;
        }
        T* to = panel_data + (p - p0) * longest;
        b.side = {to, nullptr};
        if (!single_run && b.columns)
          cut_columns(source, channels * taps, k_offset, b.segments, b.segment_count, to);
        else if (!single_run)
          cut_panel_function(b.vectors)(source, channels, channel_pitch, tap_shift, taps,
                                        b.segments, b.segment_count, to);
        else if (b.count < kNr)
          last = &b;
      }
      if (single_run)
        find_channels(source ? source + panels[0].segments[0].from : nullptr, channel_pitch,
                      set_begin, p0, c0, channels, channel_data);
      if (last) {
        T* to = panel_data + (last->position - p0) * longest;
        if (last->columns)
          cut_pointwise_columns(channel_data, c0, last->position - p0, last->count, channels, to);
        else
          cut_last_panel(channel_data, c0, last->position - p0, last->count, channels, to);
      }
      const int64_t together = max_of(kFewestCut, kCutBytes / (channels * kNr * kBytes));
      const int64_t cut_count = cut_all && single_run ? (p1 - p0) / kNr : 0;
      const auto cut = [&](int64_t first, int64_t part, int64_t parts) {
        const int64_t end = min_of(first + together, cut_count);
        const int64_t begin_channel = channels * part / parts;
        const int64_t end_channel = channels * (part + 1) / parts;
        if (is_scaled())
          cut_whole_panels<true>(channel_data, c0, first, end, begin_channel, end_channel,
                                 panel_data, longest * kNr);
        else
          cut_whole_panels<false>(channel_data, c0, first, end, begin_channel, end_channel,
                                  panel_data, longest * kNr);
      };
      cut(0, 0, 1);
      // Packed, as much of A as fits L2 streams by each panel of B, which stays in L1. In place, A
      // has as many streams as rows and is better read only once, while B passes by from L2.
      const int64_t block =
          pack_ || strided_ ? max_of(1, kBlockBytes / (Block::kMr * longest * kBytes)) : 1;
      // Panels of B that stay in L1 together: their outputs follow one another in each row of C.
      const int64_t in_l1 = max_of(1, kL1Bytes / (channels * taps * kNr * kBytes));
      for (int64_t first = panel0; first < panel1; first += block) {
        const int64_t end = min_of(first + block, panel1);
        for (int64_t run_begin = 0; run_begin < panel_count; run_begin += in_l1) {
          const int64_t run_end = min_of(run_begin + in_l1, panel_count);
          // The next panels of B are cut a little at a time between the products.
          for (int64_t p = run_begin; first == panel0 && p < run_end; ++p)
            cut(p - p % together + together, p % together, together);
          for (int64_t panel = first; panel < end; ++panel) {
            PanelOfA a = panel_of_a(group, panel, c0, channels, packed, row_offset);
            // With the first use of a panel, the next one is brought to the cache.
            if (a.side.row_offset && run_begin == 0)
              a.side.ahead = a.rows * conv_.weight_output_stride;
            for (int64_t p = run_begin; p < run_end; ++p, a.side.ahead = 0)
              multiply(a, panels[p], channels * taps);
          }
        }
      }
    }
    if (past_caches_) finish_past_caches();
    return true;
  }

  // A panel of A, and where its rows of C are for the first position of the first image.
  struct PanelOfA {
    int64_t rows;
    SideA<T> side;
    TileOfC<T> tile;
  };

  // For the reduction over channels [c0, c0 + channels). `row_offset` is where the rows of a panel
  // lie in place.
  PanelOfA panel_of_a(int64_t group, int64_t panel, int64_t c0, int64_t channels, const T* packed,
                      const int64_t* row_offset) const {
    const int64_t m0 = output_begin(panel), m = group * conv_.outputs + m0;
    const bool last = c0 + channels == conv_.planes();
    PanelOfA a{output_begin(panel + 1) - m0,
               {},
               {conv_.out + m * conv_.out_channel_stride, conv_.out_channel_stride,
                conv_.bias ? conv_.bias + m : nullptr, c0 > 0,
                conv_.epilogue.active && last ? &conv_.epilogue : nullptr, nullptr, past_caches_}};
    if (pack_) {
      a.side.a = packed + group * conv_.outputs * conv_.reduction() +
                 (conv_.outputs * c0 + m0 * channels) * conv_.taps();
      return a;
    }
    a.side.a = conv_.weight + group * conv_.weight_group_stride + m0 * conv_.weight_output_stride +
               conv_.weight_offset(c0);
    if (strided_)
      a.side.k_step = conv_.weight_channel_stride;
    else
      a.side.row_offset = row_offset;
    return a;
  }

  // One panel of A times one panel of B, over `length` values.
  void multiply(const PanelOfA& a, const PanelOfB& b, int64_t length) const {
    const Reduction reduction{1, length, 0};
    if (!b.dense && !by_rows_) {
      alignas(64) T spill[Block::kMr * kNr];
      if (b.columns)
        dot_columns(a.side.a, a.rows, b, length, spill);
      else
        MicroKernels<T>::run(a.rows, b.vectors, a.side, b.side, reduction,
                             {spill, kNr, nullptr, false});
      return scatter(spill, a.rows, b, a.tile);
    }
    TileOfC<T> tile = a.tile;
    tile.c += b.segments[0].to;
    if (tile.epilogue) tile.sum = conv_.epilogue.sum_at(tile.c, conv_.out);
    if (by_rows_) tile.pieces = b.pieces;
    MicroKernels<T>::run(a.rows, b.vectors, a.side, b.side, reduction, tile);
  }

  void dot_columns(const T* a, int64_t rows, const PanelOfB& b, int64_t length, T* spill) const {
    static_assert(kFewPositions == 4, "a kernel for each number of columns");
    switch (b.count) {
      case 1:
        return dot_rows<Block::kMr, 1>(a, rows, b, length, spill);
      case 2:
        return dot_rows<Block::kMr, 2>(a, rows, b, length, spill);
      case 3:
        return dot_rows<Block::kMr / 2, 3>(a, rows, b, length, spill);
      default:
        return dot_rows<Block::kMr / 2, 4>(a, rows, b, length, spill);
    }
  }
  // All columns at once: the rows, which are long, come from beyond L1.
  template <int Rows, int Columns>
  void dot_rows(const T* a, int64_t rows, const PanelOfB& b, int64_t length, T* spill) const {
    const int64_t pitch = conv_.weight_output_stride;
    for (int64_t m = 0; m < rows; m += Rows)
      dot_products<T, Rows, Columns>(a + m * pitch, pitch, min_of(rows - m, Rows), b.side.b, length,
                                     spill + m * kNr, kNr);
  }

  // Adds a tile that stands apart to where it belongs.
  void scatter(const T* spill, int64_t rows, const PanelOfB& b, const TileOfC<T>& tile) const {
    T* c = tile.c;
    for (int64_t m = 0; m < rows; ++m, spill += kNr, c += tile.row_stride) {
      const T first = tile.bias ? tile.bias[m] : T(0);
      for (const Segment* s = b.segments; s < b.segments + b.segment_count; ++s) {
        // Value by value: vectors that the products have just written are not yet there to be read
        // across.
        const T* from = spill + s->at;
        T* to = c + s->to;
        const int64_t step = conv_.out_column_stride;
        for (int64_t k = 0; k < s->length; ++k)
          to[k * step] = from[k] + (tile.accumulate ? to[k * step] : first);
        if (!tile.epilogue) continue;
        const T* sum = tile.epilogue->sum_at(to, conv_.out);
        for (int64_t k = 0; k < s->length; ++k)
          to[k * step] = tile.epilogue->apply(to[k * step] + (sum ? sum[k * step] : T(0)));
      }
    }
  }

  const TapConvolution<T> conv_;
  int64_t set_;                            // images whose positions are one run
  bool by_rows_;                           // does each vector of a panel have a row of its own?
  int64_t width_;                          // of a row of positions, which are whole vectors then
  int64_t panels_, output_panels_;         // micro-panels of B in a set, of A in a group
  int64_t position_tasks_, output_tasks_;  // per set and group
  int64_t chunks_;                         // passes over the reduction, each of whole channels
  bool pack_, strided_;                    // is A packed, or read in place as one that is?
  bool past_caches_;                       // is the output stored so?
};

}  // namespace convpool::CONVPOOL_ISA
