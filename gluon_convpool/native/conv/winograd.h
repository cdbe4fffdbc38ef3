// Winograd's convolution: fewer multiplications. Strides and dilations are what NeighbourView makes
// of them.
//
// The output is cut into tiles of mh x mw. With V the transformed tiles of the input and U the
// transformed taps, each of the th x tw elements of a transformed tile is a matrix product of its
// own, M[tiles x outputs] = V[tiles x channels] * U[channels x outputs], and the tiles of the
// output are transforms of M. Channels and outputs stand side by side in V, U and M, so that every
// transform works on whole vectors, and the micro-kernel reads V in place with a tile in each row.
//
//   V: [pass][plane][tile][channel]   U: [panel][pass][plane][channel][output]
//   M: [panel][plane][tile][output]
//
// A pass is a part of the channels, whole vectors of them; a panel is NR outputs, the last one as
// many whole vectors as needed; a block is a range of tiles. Where the input is small beside the
// weights, there is one block, and each panel's taps are transformed where they are used; otherwise
// all taps are transformed first, and each block's V stays in the cache of the thread that uses it.
// A packed weight has all taps transformed.
//
// A value of M is summed in the same order whatever the blocks are.
#pragma once

#include "../arena.h"
#include "../gemm/micro_kernel.h"
#include "../parallel.h"
#include "../processor.h"
#include "tap_convolution.h"
#include "winograd_bands.h"
#include "winograd_transform.h"

namespace convpool::CONVPOOL_ISA {

// Of the kernels that tiles are made for, and the largest that are transposed in one piece.
inline constexpr int64_t kMostKernelTaps = 49;
// Multiply-adds in the time of a value of the input that is read alone.
inline constexpr double kReadByValue = 32;

// One size of tile.
template <typename T>
struct WinogradTile {
  int mh, rh, mw, rw;
  void (*input)(T* band, int64_t pitch, int64_t tiles, T* v, int64_t plane_pitch,
                int64_t tile_pitch);
  void (*weight)(const T* taps, T* u, int64_t plane_pitch);
  void (*output)(const T* m, int64_t plane_pitch, int64_t tile_pitch, int64_t tiles, T* band,
                 int64_t pitch);
  void (*output_gradient)(T* band, int64_t pitch, int64_t tiles, T* d, int64_t plane_pitch,
                          int64_t tile_pitch);
  void (*weight_gradient)(const T* du, int64_t plane_pitch, T* taps);

  int th() const { return mh + rh - 1; }
  int tw() const { return mw + rw - 1; }
  int planes() const { return th() * tw(); }
  int taps() const { return rh * rw; }

  // With seven points or more on both axes, transformed values are so much larger than the outputs
  // that are left of them that float32 loses more than with fewer points, and the more additions
  // there are in a row.
  bool is_less_exact() const { return sizeof(T) == sizeof(float) && planes() > 48; }

  // Additions in a row, of which others allow `otherwise`. In chains of 256 channels 1.3e-5 were
  // lost, and in gradients of the weight of 64 tiles 1.9e-5; short ones leave half of that, and
  // take 1 to 4 % more time.
  int64_t longest_chain(int64_t otherwise) const { return is_less_exact() ? 32 : otherwise; }
};

template <typename T, int MH, int RH, int MW, int RW>
constexpr WinogradTile<T> winograd_tile() {
  using Transforms = WinogradTransforms<T, MH, RH, MW, RW>;
  return {MH,
          RH,
          MW,
          RW,
          Transforms::input,
          Transforms::weight,
          Transforms::output,
          Transforms::output_gradient,
          Transforms::weight_gradient};
}

template <typename T, int MH, int RH, int MW, int RW>
inline constexpr WinogradTile<T> kWinogradTile = winograd_tile<T, MH, RH, MW, RW>();

// Planes lie an odd number of cache lines apart: the same tile's elements of all planes, which are
// read or written together, then fall into different sets of the cache.
template <typename T>
CONVPOOL_INLINE int64_t winograd_plane_pitch(int64_t values) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  return (ceil_div(values, kLine) | 1) * kLine;
}

// Vectors of channels of a transformed tile in one line of the cache. Threads that wrote to the
// same lines would wait for one another.
inline constexpr int64_t kLineSlices = 64 / kVectorBytes;

// Columns of a band, so that it stays in L1, and the tiles that have them.
inline constexpr int64_t kBandColumns = 48;
template <typename T>
inline int64_t band_tiles(const WinogradTile<T>& tile) {
  return max_of(1, kBandColumns / tile.mw);
}
template <typename T>
inline int64_t band_pitch(const WinogradTile<T>& tile) {
  return (max_of(kBandColumns, tile.mw) + tile.rw - 1) * Simd<T>::kLanes;
}

// Transforms kLanes channels of a group, from `channel` on, of a run of tiles. `v` is the place of
// the first tile in the first plane.
template <typename T>
inline void transform_input_run(const NeighbourView<T>& view, const WinogradTile<T>& tile,
                                const TileRun& run, int64_t group, int64_t channel, T* v,
                                int64_t plane_pitch, int64_t tile_pitch, T* band) {
  view.fill(group, channel, run.image, run.row * tile.mh, run.column * tile.mw, tile.th(),
            (run.tiles - 1) * tile.mw + tile.tw(), band, band_pitch(tile));
  tile.input(band, band_pitch(tile), run.tiles, v, plane_pitch, tile_pitch);
}

// The transformed taps of a plane are zero from this channel of the view on: the last row of a
// tile, and the last column, see nothing but the last tap.
template <typename T>
inline int64_t plane_channels(const NeighbourView<T>& view, const WinogradTile<T>& tile,
                              int64_t plane) {
  return view.channels_with_taps(tile.rh > 1 && plane / tile.tw() == tile.th() - 1,
                                 tile.rw > 1 && plane % tile.tw() == tile.tw() - 1);
}

template <typename T>
class Winograd {
  using Block = Blocks<T>;
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int64_t kBytes = sizeof(T);
  // A block's V, which is read once for every panel.
  static constexpr int64_t kBlockBytes = 384 << 10;
  // Rows of a panel's taps in one pass over the reduction, of all planes together, where they are
  // transformed on the spot: they fit L2.
  static constexpr int64_t kTapRows = 2560;
  // What reading a value of them takes, where they are packed, in multiply-adds: from a cache, or
  // from memory where they are more than a core keeps.
  static constexpr double kReadTap = 4, kReadTapFromMemory = Block::kReadFromMemory;
  // The latter in a processor that computes wide vectors in halves: it reads as fast as others,
  // and computes half as much meanwhile.
  static constexpr double kReadPackedByHalves = 7;
  static constexpr int64_t kKeptTapBytes = 2 << 20;
  // So many of kernels, which each phase reads anew, stay in a core's own cache.
  static constexpr int64_t kNearKernelBytes = 512 << 10;
  // The same for V, where it is more than a core's part of the last cache.
  static constexpr double kReadFar = 16;
  static constexpr int64_t kNearBytes = 8 << 20;
  // M of a task, which is read and written once for each pass.
  static constexpr int64_t kProductBytes = 512 << 10;
  // Channels whose taps are transformed at once.
  static constexpr int64_t kTapChannels = kLanes > 8 ? kLanes : 8;

 public:
  // The largest tile that is exact enough.
  static constexpr int kMostPlanes = 64;

  Winograd(const TapConvolution<T>& conv, const WinogradTile<T>& tile)
      : view_(conv, tile.rh, tile.rw),
        conv_(conv),
        tile_(tile),
        grid_(view_.batch, view_.h.out_size, view_.w.out_size, tile.mh, tile.mw),
        tiles_(grid_.count) {
    // An even number of panels, about equally wide, so that an even number of threads shares them.
    output_vectors_ = ceil_div(conv.outputs, kLanes);
    panels_ = ceil_div(output_vectors_, Block::kNv);
    if (panels_ > 1) panels_ += panels_ % 2;
    panel_pitch_ = ceil_div(output_vectors_, panels_) * kLanes;
    slices_ = ceil_div(view_.channels, kLanes);
    packed_ = conv.packed && conv.packed->has(tap_format());
    one_block_ = conv.outputs > tiles_;
    taps_on_the_spot_ = one_block_ && !packed_;
    passes_ = passes_of(taps_on_the_spot_ ? min_of(kTapRows / tile.planes(), longest_pass())
                                          : longest_pass());
    tile_pitch_ = tile_pitch(passes_);
  }

  // An estimate in multiply-adds at the speed of the micro-kernel, its factors measured on AVX2: a
  // product of few channels costs what reading and writing the micro-kernel's tile costs, and each
  // element of a transformed tile a few operations and a place in memory.
  double cost() const {
    const double tiles = static_cast<double>(tiles_);
    const double channels = static_cast<double>(slices_ * kLanes);
    const double outputs = static_cast<double>(ceil_div(conv_.outputs, kLanes) * kLanes);
    double inputs = 10 * tiles * channels, products = 0;
    // Parts that do not begin with whole vectors are read value by value.
    if (!view_.whole() && conv_.channels % kLanes != 0)
      inputs += kReadByValue * tiles * static_cast<double>(view_.channels);
    for (int64_t plane = 0; plane < tile_.planes(); ++plane)
      products += 1.05 * tiles * outputs *
                  static_cast<double>(plane_channels(view_, tile_, plane) + 8 * passes_);
    // A kernel's taps are gathered, and then each element of its transform is computed and written.
    const double taps =
        packed_ ? read_packed() * tile_.planes() : 10 * tile_.taps() + 6 * tile_.planes();
    const double results = 8 * tiles * outputs;
    // Every panel of outputs reads a V of all tiles again.
    const double far = one_block_ && v_size(tiles_) * kBytes > kNearBytes ? kReadFar : 0;
    const double again = far * tiles * channels * static_cast<double>(panels_);
    // Taps of a part, or of a phase of the stride, are gathered one by one or picked from
    // transposed kernels.
    const bool in_kernels = view_.whole() && (conv_.plane_in_order() || conv_.weight_reversed());
    // With channels last, whole vectors are neighbours.
    const bool in_vectors = view_.whole() && conv_.d.taps == 1 &&
                            (conv_.weight_channel_stride == 1 || conv_.weight_output_stride == 1);
    const double gather = in_vectors ? 0 : kernels_follow() ? 6 : 100;
    double gathered = in_kernels ? 0 : gather * channels * outputs * tile_.taps();
    // A phase's taps lie among those of all phases.
    const int64_t kernel = min_of(conv_.weight_output_stride, conv_.weight_channel_stride);
    const double read_kernels =
        channels * outputs * static_cast<double>(max_of(tile_.taps(), kernel));
    const int64_t kept = in_kernels ? kKeptTapBytes : kNearKernelBytes;
    if (read_kernels * kBytes > static_cast<double>(kept))
      gathered += kReadTapFromMemory * read_kernels;
    if (packed_) gathered = 0;
    return static_cast<double>(conv_.groups) * (tile_.planes() * (inputs + results + again) +
                                                taps * channels * outputs + products + gathered);
  }

  // Bytes that a call needs beside its arrays, without the blocks that each thread has.
  double memory() const {
    const double planes = static_cast<double>(tile_.planes() * kBytes);
    const double v = planes * static_cast<double>(passes_ * tile_pitch_);
    if (one_block_) return v * static_cast<double>(conv_.groups * tiles_);
    if (packed_) return 0;
    return static_cast<double>(conv_.groups * u_size() * kBytes);
  }

  // Returns false where memory is out.
  bool run() const {
    const int64_t threads = num_threads(), vector_tiles = v_size(1);
    int64_t blocks = 1;
    if (!one_block_) {
      blocks = ceil_div(tiles_ * vector_tiles * kBytes, kBlockBytes);
      if (blocks > 1 && blocks < 8 * threads) blocks = ceil_div(blocks, threads) * threads;
      blocks = min_of(blocks, tiles_);
    }
    const int64_t tasks = conv_.groups * blocks;
    const bool fused = !one_block_ && tasks >= threads;

    Arena arena(Scratch::kShared);
    const bool transform = !taps_on_the_spot_ && !packed_;
    const size_t u_at = arena.template reserve<T>(transform ? conv_.groups * u_size() : 0);
    const size_t v_at = arena.template reserve<T>(fused ? 0 : tasks * v_size(block_size(blocks)));
    if (!arena.allocate()) return false;
    const T* u = packed_ ? static_cast<const T*>(conv_.packed->taps()) : nullptr;
    if (transform) {
      transform_all_taps(arena.template at<T>(u_at));
      u = arena.template at<T>(u_at);
    }
    T* v = fused ? nullptr : arena.template at<T>(v_at);

    bool failed = false;
    if (!fused) transform_all_inputs(blocks, v, &failed);
    const int64_t shares = fused ? 1 : panel_shares(tasks, block_size(blocks));
    parallel_for(tasks * shares, work(), [&](int64_t task) {
      const int64_t share = task % shares, block = task / shares % blocks;
      const int64_t group = task / shares / blocks;
      const T* own = v ? v + (group * blocks + block) * v_size(block_size(blocks)) : nullptr;
      if (!compute(group, block, blocks, panels_ * share / shares, panels_ * (share + 1) / shares,
                   u, own))
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  // What a packed weight has for this computation.
  TapFormat tap_format() const {
    return {kLanes,
            panel_pitch_,
            longest_pass(),
            tile_.mh,
            tile_.rh,
            tile_.mw,
            tile_.rw,
            view_.h.stride,
            view_.w.stride,
            view_.h.parts,
            view_.w.parts,
            conv_.d.taps,
            conv_.groups * u_size(passes_of(longest_pass()))};
  }
  void pack(T* taps) const { transform_all_taps(taps); }

 private:
  double read_packed() const {
    if (u_size() * kBytes <= kKeptTapBytes) return kReadTap;
    return kVectorBytes == 64 && halves_wide_vectors() ? kReadPackedByHalves : kReadTapFromMemory;
  }
  double work() const { return conv_.multiply_adds(); }
  int64_t longest_pass() const { return tile_.longest_chain(Block::kKc); }
  int64_t block_begin(int64_t block, int64_t blocks) const { return tiles_ * block / blocks; }
  int64_t block_size(int64_t blocks) const { return ceil_div(tiles_, blocks); }
  int64_t passes_of(int64_t longest) const {
    return ceil_div(slices_, max_of(1, longest / kLanes));
  }
  int64_t tile_pitch(int64_t passes) const { return ceil_div(slices_, passes) * kLanes; }
  int64_t pass_slice(int64_t pass) const { return slices_ * pass / passes_; }
  int64_t pass_of(int64_t slice) const {
    int64_t pass = slice * passes_ / slices_;
    while (pass_slice(pass + 1) <= slice) ++pass;
    return pass;
  }
  int64_t pass_begin(int64_t pass) const {
    return min_of(pass_slice(pass) * kLanes, view_.channels);
  }

  // Into how many tasks the panels of a block are cut: two a thread or more, all with as many
  // panels, and no more in one than the cache has room for M.
  int64_t panel_shares(int64_t tasks, int64_t tiles) const {
    const int64_t fitting = max_of(1, kProductBytes / (m_panel(tiles) * kBytes));
    int64_t shares = max_of(ceil_div(2 * num_threads(), tasks), ceil_div(panels_, fitting));
    while (shares < panels_ && panels_ % shares != 0) ++shares;
    return min_of(panels_, shares);
  }

  int64_t v_plane(int64_t tiles) const { return winograd_plane_pitch<T>(tiles * tile_pitch_); }
  int64_t v_pass(int64_t tiles) const { return tile_.planes() * v_plane(tiles); }
  int64_t v_size(int64_t tiles) const { return passes_ * v_pass(tiles); }
  int64_t m_plane(int64_t tiles) const { return winograd_plane_pitch<T>(tiles * panel_pitch_); }
  int64_t m_panel(int64_t tiles) const { return tile_.planes() * m_plane(tiles); }
  // The first vector of a panel's outputs, and how many there are.
  int64_t panel_vector(int64_t panel) const { return output_vectors_ * panel / panels_; }
  int64_t panel_vectors(int64_t panel) const {
    return panel_vector(panel + 1) - panel_vector(panel);
  }
  int64_t u_plane() const { return winograd_plane_pitch<T>(tile_pitch_ * panel_pitch_); }
  int64_t u_pass() const { return tile_.planes() * u_plane(); }
  int64_t u_size(int64_t passes) const {
    return panels_ * passes * tile_.planes() *
           winograd_plane_pitch<T>(tile_pitch(passes) * panel_pitch_);
  }
  int64_t u_size() const { return u_size(passes_); }
  // Where the transformed taps of a panel's pass are.
  int64_t u_offset(int64_t group, int64_t panel, int64_t pass) const {
    return group * u_size() + (panel * passes_ + pass) * u_pass();
  }

  // ------------------------------------------------------------------ inputs

  void transform_all_inputs(int64_t blocks, T* v, bool* failed) const {
    const int64_t pieces = min_of(blocks * 16, tiles_);
    const int64_t lines = ceil_div(slices_, kLineSlices);
    parallel_for(conv_.groups * pieces * lines, work(), [&](int64_t task) {
      const int64_t line = task % lines, piece = task / lines % pieces;
      const int64_t group = task / lines / pieces;
      const int64_t slice0 = line * kLineSlices, slice1 = min_of(slices_, slice0 + kLineSlices);
      Arena arena(Scratch::kTask);
      const size_t band_at = arena.template reserve<T>(tile_.th() * band_pitch(tile_));
      if (!arena.allocate()) {
        __atomic_store_n(failed, true, __ATOMIC_RELAXED);
        return;
      }
      T* band = arena.template at<T>(band_at);
      const int64_t end = block_begin(piece + 1, pieces);
      for (int64_t tile = block_begin(piece, pieces); tile < end;) {
        // The block that holds this tile.
        int64_t block = tile * blocks / tiles_;
        while (block_begin(block + 1, blocks) <= tile) ++block;
        const int64_t first = block_begin(block, blocks), last = block_begin(block + 1, blocks);
        const int64_t stop = min_of(end, last);
        transform_inputs(group, tile, stop, slice0, slice1, first, last - first,
                         v + (group * blocks + block) * v_size(block_size(blocks)), band);
        tile = stop;
      }
    });
  }

  // Tiles [begin, end) and slices [slice0, slice1) of kLanes channels, to the V of a block of
  // `count` tiles that begins at tile `first`.
  void transform_inputs(int64_t group, int64_t begin, int64_t end, int64_t slice0, int64_t slice1,
                        int64_t first, int64_t count, T* v, T* band) const {
    for (int64_t tile = begin; tile < end;) {
      const TileRun run = grid_.run_at(tile, end, band_tiles(tile_));
      for (int64_t slice = slice0; slice < slice1; ++slice) {
        const int64_t pass = pass_of(slice), c = slice * kLanes;
        transform_input_run(
            view_, tile_, run, group, c,
            v + pass * v_pass(count) + (tile - first) * tile_pitch_ + c - pass_begin(pass),
            v_plane(count), tile_pitch_, band);
      }
      tile += run.tiles;
    }
  }

  // ------------------------------------------------------------------ taps

  void transform_all_taps(T* u) const {
    const double moved = 8 * static_cast<double>(conv_.groups * u_size());
    const int64_t pieces = ceil_div(ceil_div(view_.channels, passes_), 2 * kTapChannels);
    parallel_for(conv_.groups * panels_ * passes_ * pieces, moved, [&](int64_t task) {
      const int64_t piece = task % pieces, pass = task / pieces % passes_;
      const int64_t panel = task / pieces / passes_ % panels_;
      const int64_t group = task / pieces / passes_ / panels_;
      const int64_t first = pass_begin(pass), channels = pass_begin(pass + 1) - first;
      const int64_t c0 = channels * piece / pieces, c1 = channels * (piece + 1) / pieces;
      const int64_t pitch = panel_vectors(panel) * kLanes;
      transform_taps(group, panel, first + c0, first + c1,
                     u + u_offset(group, panel, pass) + c0 * pitch);
    });
  }

  // Channels [c0, c1) of a panel, to u: [plane][channel][output].
  void transform_taps(int64_t group, int64_t panel, int64_t c0, int64_t c1, T* u) const {
    alignas(64) T taps[kTapChannels * kMostKernelTaps * kLanes];
    const int64_t count = tile_.taps(), vectors = panel_vectors(panel);
    for (int64_t c = c0; c < c1; c += kTapChannels) {
      const int64_t channels = min_of(kTapChannels, c1 - c);
      for (int64_t v = 0; v < vectors; ++v) {
        const int64_t m = (panel_vector(panel) + v) * kLanes;
        gather_taps(group, m, c, channels, taps);
        for (int64_t i = 0; i < channels; ++i)
          tile_.weight(taps + i * count * kLanes, u + ((c - c0 + i) * vectors + v) * kLanes,
                       u_plane());
      }
    }
  }

  // [channel][tap][lane], where lane is an output from m on; zero behind the last output.
  void gather_taps(int64_t group, int64_t m, int64_t c, int64_t channels, T* to) const {
    const int64_t count = tile_.taps(), outputs = min_of(kLanes, conv_.outputs - m);
    const int64_t values = channels * count, output_stride = conv_.weight_output_stride;
    const bool whole = outputs == kLanes && view_.dense();
    if (whole && conv_.d.taps == 1 && conv_.weight_in_order() && values >= kLanes) {
      const T* from = view_.taps(group, c).kernel + m * output_stride;
      for (int64_t k = 0; k < values; k += kLanes) {
        const int64_t at = min_of(k, values - kLanes);
        transpose_square(from + at, output_stride, to + at * kLanes, kLanes);
      }
      return;
    }
    if (outputs == kLanes && output_stride == 1) {
      for (int64_t i = 0; i < channels; ++i)
        for_each_tap(group, c + i, [&](const T* tap) {
          store<T>(to, tap ? load<T>(tap + m) : Vec<T>{});
          to += kLanes;
        });
      return;
    }
    const bool planes_apart = !view_.whole() || conv_.d.taps > 1;
    if (outputs == kLanes && conv_.weight_channel_stride == 1 && !planes_apart &&
        channels >= kLanes) {
      for_each_tap(group, c, [&](const T* tap) {
        for (int64_t i = 0; i < channels; i += kLanes) {
          const int64_t at = min_of(i, channels - kLanes);
          transpose_square(tap + m * output_stride + at, output_stride, to + at * count * kLanes,
                           count * kLanes);
        }
        to += kLanes;
      });
      return;
    }
    const bool reversed = conv_.weight_reversed();
    if (whole && (reversed || conv_.plane_in_order())) {
      for (int64_t i = 0; i < channels; ++i, to += count * kLanes) {
        const T* from = view_.taps(group, c + i).kernel + m * output_stride;
        for (int64_t k = 0; k < count; k += kLanes) {
          const int64_t at = max_of(0, min_of(k, count - kLanes));
          if (reversed)
            transpose_square(from + at, output_stride, to + (count - 1 - at) * kLanes, -kLanes,
                             count);
          else
            transpose_square(from + at, output_stride, to + at * kLanes, kLanes, count);
        }
      }
      return;
    }
    if (outputs == kLanes && (kernels_follow() || taps_near())) {
      pick_taps(group, m, c, channels, to);
      return;
    }
    for (int64_t i = 0; i < channels; ++i)
      for_each_tap(group, c + i, [&](const T* tap) {
        for (int64_t lane = 0; lane < kLanes; ++lane)
          to[lane] = tap && lane < outputs ? tap[(m + lane) * output_stride] : T(0);
        to += kLanes;
      });
  }

  // Do the kernels of an output's channels follow one another, and fit what is transposed at once?
  bool kernels_follow() const {
    return conv_.d.taps == 1 && conv_.weight_in_order() && conv_.taps() <= kMostKernelTaps;
  }

  // Are the taps of a channel and output neighbours in one kernel, or is what lies between them
  // little?
  bool taps_near() const {
    return conv_.d.taps == 1 && conv_.weight_column_stride == 1 && tile_.taps() >= 4 &&
           kernel_values() > kLanes / 2 && kernel_values() <= kMostKernelTaps;
  }
  // Of a kernel, up to the last that is a tap.
  int64_t kernel_values() const {
    int64_t row = 0, column = 0;
    for (int64_t i = 0; i < conv_.h.taps; ++i) row = max_of(row, conv_.h.index[i]);
    for (int64_t j = 0; j < conv_.w.taps; ++j) column = max_of(column, conv_.w.index[j]);
    return row * conv_.weight_row_stride + column * conv_.weight_column_stride + 1;
  }

  // gather_taps() by transposing kernels, of which the taps are picked: those of several channels
  // together where they follow one another.
  void pick_taps(int64_t group, int64_t m, int64_t c, int64_t channels, T* to) const {
    alignas(64) T kernels[kTapChannels * kMostKernelTaps * kLanes];
    const bool follow = kernels_follow();
    const int64_t output_stride = conv_.weight_output_stride, values = kernel_values();
    for (int64_t done = 0; done < channels;) {
      // Of one part.
      const int64_t left = conv_.channels - (c + done) % conv_.channels;
      const int64_t count = follow ? min_of(channels - done, left) : 1;
      const typename NeighbourView<T>::Taps taps = view_.taps(group, c + done);
      const T* from = taps.kernel + m * output_stride;
      for (int64_t k = 0; k < count * values; k += kLanes) {
        const int64_t at = max_of(0, min_of(k, count * values - kLanes));
        transpose_square(from + at, output_stride, kernels + at * kLanes, kLanes, count * values);
      }
      const T* tap[kMostKernelTaps];  // of the first kernel; null where there is none
      for (int64_t t = 0; t < tile_.taps(); ++t) {
        const T* place = view_.tap(taps, t / tile_.rw, t % tile_.rw);
        tap[t] = place ? kernels + (place - taps.kernel) * kLanes : nullptr;
      }
      for (int64_t i = 0; i < count; ++i)
        for (int64_t t = 0; t < tile_.taps(); ++t, to += kLanes)
          store<T>(to, tap[t] ? load<T>(tap[t] + i * values * kLanes) : Vec<T>{});
      done += count;
    }
  }

  // body(tap of the group's first output, or null) for the taps of a channel of the view in order.
  template <typename Body>
  void for_each_tap(int64_t group, int64_t channel, const Body& body) const {
    const typename NeighbourView<T>::Taps taps = view_.taps(group, channel);
    for (int64_t i = 0; i < tile_.rh; ++i)
      for (int64_t j = 0; j < tile_.rw; ++j) body(view_.tap(taps, i, j));
  }

  // ------------------------------------------------------------------ products and outputs

  // Panels [panel0, panel1) of a block. `u` is all transformed taps, or null; `v` is the block's V,
  // or null.
  bool compute(int64_t group, int64_t block, int64_t blocks, int64_t panel0, int64_t panel1,
               const T* u, const T* v) const {
    const int64_t first = block_begin(block, blocks), end = block_begin(block + 1, blocks);
    const int64_t count = end - first;
    if (count == 0) return true;
    Arena arena(Scratch::kTask);
    const size_t v_at = arena.template reserve<T>(v ? 0 : v_size(count));
    const size_t u_at = arena.template reserve<T>(u ? 0 : u_pass());
    // Where V is this task's own, it stays in cache for one panel after the other; else each pass
    // of V does for all panels.
    const int64_t panels = v ? panel1 - panel0 : 1;
    const size_t m_at = arena.template reserve<T>(panels * m_panel(count));
    const size_t band_at = arena.template reserve<T>(tile_.th() * band_pitch(tile_));
    if (!arena.allocate()) return false;
    T *m = arena.template at<T>(m_at), *band = arena.template at<T>(band_at);
    T* panel_taps = arena.template at<T>(u_at);
    if (!v) {
      T* own = arena.template at<T>(v_at);
      transform_inputs(group, first, end, 0, slices_, first, count, own, band);
      v = own;
    }
    for (int64_t begin = panel0; begin < panel1; begin += panels) {
      for (int64_t pass = 0; pass < passes_; ++pass)
        for (int64_t panel = begin; panel < begin + panels; ++panel) {
          const T* taps = u ? u + u_offset(group, panel, pass) : panel_taps;
          if (!u) transform_taps(group, panel, pass_begin(pass), pass_begin(pass + 1), panel_taps);
          multiply(panel, pass, count, v + pass * v_pass(count), taps, u ? u_plane() : 0,
                   m + (panel - begin) * m_panel(count));
        }
      for (int64_t panel = begin; panel < begin + panels; ++panel)
        transform_outputs(group, panel, first, end, m + (panel - begin) * m_panel(count), band);
    }
    return true;
  }

  // Adds the products of a pass to the M of a panel. `ahead`: how far behind each value of U the
  // one lies that the next product is to find in cache; 0: all are there.
  void multiply(int64_t panel, int64_t pass, int64_t count, const T* v, const T* u, int64_t ahead,
                T* m) const {
    const int64_t begin = pass_begin(pass), end = pass_begin(pass + 1);
    const int64_t vectors = panel_vectors(panel);
    int64_t row_offset[Block::kMr];
    for (int64_t row = 0; row < Block::kMr; ++row) row_offset[row] = row * tile_pitch_;
    const int64_t strips = ceil_div(count, Block::kMr);
    const bool far = v_pass(count) * kBytes > kBlockBytes;
    for (int64_t plane = 0; plane < tile_.planes(); ++plane) {
      const int64_t channels = min_of(end, plane_channels(view_, tile_, plane)) - begin;
      if (channels <= 0) continue;
      const T* plane_v = v + plane * v_plane(count);
      T* plane_m = m + plane * m_plane(count);
      for (int64_t strip = 0; strip < strips; ++strip) {
        // Spread evenly: two strips of 5 run faster than one of 6 and one of 4.
        const int64_t row = count * strip / strips, end_row = count * (strip + 1) / strips;
        const T* rows = plane_v + row * tile_pitch_;
        if (far) {
          // A row is too short for the processor to see where it leads.
          const T* next =
              strip + 1 < strips ? plane_v + end_row * tile_pitch_ : plane_v + v_plane(count);
          for (int64_t k = 0; k < (end_row - row) * tile_pitch_ * kBytes; k += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(next) + k);
        }
        MicroKernels<T>::run(end_row - row, vectors, {rows, row_offset},
                             {u + plane * u_plane(), nullptr, strip == 0 ? ahead : 0},
                             {1, channels, 0},
                             {plane_m + row * panel_pitch_, panel_pitch_, nullptr, pass > 0});
      }
    }
  }

  void transform_outputs(int64_t group, int64_t panel, int64_t first, int64_t end, const T* m,
                         T* band) const {
    for (int64_t tile = first; tile < end;) {
      const TileRun run = grid_.run_at(tile, end, band_tiles(tile_));
      for (int64_t v = 0; v < panel_vectors(panel); ++v) {
        const int64_t output = (panel_vector(panel) + v) * kLanes;
        tile_.output(m + (tile - first) * panel_pitch_ + v * kLanes, m_plane(end - first),
                     panel_pitch_, run.tiles, band, band_pitch(tile_));
        write_band(band, run, group, output);
      }
      tile += run.tiles;
    }
  }

  void write_band(const T* band, const TileRun& run, int64_t group, int64_t output) const {
    const int64_t channels = min_of(kLanes, conv_.outputs - output);
    const int64_t y = run.row * tile_.mh, x = run.column * tile_.mw;
    const int64_t rows = min_of(tile_.mh, view_.rows_from(run.image, y));
    const int64_t columns = min_of(run.tiles * tile_.mw, view_.columns_from(run.image, x));
    T* out = view_.out(run.image, group * conv_.outputs + output, y, x);
    alignas(64) T bias[kLanes] = {};
    if (conv_.bias)
      for (int64_t lane = 0; lane < channels; ++lane)
        bias[lane] = conv_.bias[group * conv_.outputs + output + lane];
    const Vec<T> bias_vector = load<T>(bias);
    const int64_t row_step = view_.h.dilation * conv_.out_row_stride;
    const int64_t step = view_.w.dilation * conv_.out_column_stride;
    const Epilogue<T> epilogue = conv_.epilogue;
    const T* sum = epilogue.sum_at(out, conv_.out);
    for (int64_t row = 0; row < rows; ++row, band += band_pitch(tile_), out += row_step) {
      if (channels == kLanes && conv_.out_channel_stride == 1) {
        for (int64_t k = 0; k < columns; ++k) {
          Vec<T> value = load<T>(band + k * kLanes) + bias_vector;
          if (sum) value += load<T>(sum + row * row_step + k * step);
          store<T>(out + k * step, epilogue.active ? epilogue.apply(value) : value);
        }
        continue;
      }
      for (int64_t k = 0; k < columns; k += kLanes) {
        // The last square overlaps the one before it. A band has as many vectors as a square.
        const int64_t at = max_of(0, min_of(k, columns - kLanes));
        Vec<T> square[kLanes];
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane)
          square[lane] = load<T>(band + (at + lane) * kLanes) + bias_vector;
        Transposer<T>::run(square);
        if (channels == kLanes && columns >= kLanes && step == 1) {
          if (sum)
#pragma GCC unroll 16
            for (int lane = 0; lane < kLanes; ++lane)
              square[lane] += load<T>(sum + row * row_step + lane * conv_.out_channel_stride + at);
          if (epilogue.active)
#pragma GCC unroll 16
            for (int lane = 0; lane < kLanes; ++lane) square[lane] = epilogue.apply(square[lane]);
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane)
            store<T>(out + lane * conv_.out_channel_stride + at, square[lane]);
          continue;
        }
        for (int64_t lane = 0; lane < channels; ++lane) {
          const int64_t place = lane * conv_.out_channel_stride + at * step;
          Vec<T> value = square[lane];
          if (sum) value += load_apart<T>(sum + row * row_step + place, columns, step);
          store_apart<T>(out + place, epilogue.active ? epilogue.apply(value) : value, columns,
                         step);
        }
      }
    }
  }

  const NeighbourView<T> view_;
  const TapConvolution<T> conv_;
  const WinogradTile<T> tile_;
  const TileGrid grid_;
  const int64_t tiles_;                            // of all images
  int64_t output_vectors_, panels_, panel_pitch_;  // of a group's outputs
  int64_t slices_;                                 // of kLanes channels
  int64_t passes_;                                 // over the channels
  int64_t tile_pitch_;                             // from tile to tile in V
  bool packed_;                                    // are the taps there already?
  bool one_block_, taps_on_the_spot_;
};

}  // namespace convpool::CONVPOOL_ISA
