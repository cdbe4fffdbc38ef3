// The gradient of the weight by Winograd's transforms: every step of the forward pass transposed.
//
// With V the transformed tiles of the input and D those of the output's gradient, each element of a
// transformed tile is a matrix product of its own, dU[channels x outputs] = V^T[channels x tiles] *
// D[tiles x outputs], and the gradient of the taps is a transform of dU.
//
//   V: [plane][tile][channel]   D: [panel][plane][tile][output]   dU: [plane][channel][output]
//
// One task is a panel of NR outputs and a range of channels, with all of their parts if these begin
// with whole vectors. It sums over all tiles in order, so the result does not depend on the tasks.
// Tiles too many for the cache are added up a part at a time. A small gradient has chains of parts,
// each with a gradient of its own: a thread that computes one alone reads V and D from its own
// cache, and waits for the others only once.
#pragma once

#include "winograd.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class WinogradWeightGradient {
  using Block = Blocks<T>;
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kNr = Block::kNr;
  static constexpr int64_t kBytes = sizeof(T);
  // V and D of the tiles that are transformed at once: what the products that read them find in
  // cache, or more where there would be so few tiles that reading and writing dU takes longer than
  // adding to it, but no more than scratch memory keeps.
  static constexpr int64_t kPartBytes = Block::kPartBytes, kMostPartBytes = 8 << 20;
  static constexpr int64_t kFewestTiles = 64;
  // How many chains there are, whatever the number of threads is, so that a sum's order is the
  // same, and the largest gradient that has them.
  static constexpr int64_t kChains = 4, kChainBytes = 1 << 20;
  // dU of a task.
  static constexpr int64_t kTaskBytes = 160 << 10;
  // Channels whose taps are written at once.
  static constexpr int64_t kTapChannels = 8;
  // Runs of tiles that are transformed in a task.
  static constexpr int64_t kPieceRuns = 2;
  // Tiles in one chain of additions. The sums of transformed tiles may be many times as large as
  // the gradient that remains of them, so long chains cost accuracy; short ones cost time.
  static constexpr int64_t kPass = 64;

 public:
  // With eight points on both axes these sums are so large that an input of a wide range and a
  // gradient of the output with a large mean leave errors of 2e-5; with seven, of 1.3e-5.
  static constexpr int kMostPlanes = sizeof(T) == sizeof(float) ? 49 : 64;

  // `conv` is the forward pass, with `out` the gradient of the output (read only) and `weight`
  // unused.
  WinogradWeightGradient(const TapConvolution<T>& conv, const WinogradTile<T>& tile)
      : view_(conv, tile.rh, tile.rw),
        conv_(conv),
        tile_(tile),
        grid_(view_.batch, view_.h.out_size, view_.w.out_size, tile.mh, tile.mw) {
    slices_ = ceil_div(view_.channels, kLanes);
    output_slices_ = ceil_div(conv.outputs, kLanes);
    panels_ = ceil_div(conv.outputs, kNr);
    const int64_t tile_bytes =
        tile.planes() * kBytes * conv.groups * (slices_ * kLanes + panels_ * kNr);
    const int64_t part_tiles = max_of(max_of(1, kPartBytes / tile_bytes),
                                      min_of(kFewestTiles, kMostPartBytes / tile_bytes));
    // An empty batch has one as well, so that what it costs can be asked.
    parts_ = max_of(1, ceil_div(grid_.count, part_tiles));
    chains_ = gradient_size() * kBytes <= kChainBytes ? min_of(parts_, kChains) : 1;
    const int64_t fitting = kTaskBytes / (tile.planes() * kNr * kBytes);
    join_parts_ = !view_.whole() && conv.d.taps == 1 && conv.channels % kLanes == 0 &&
                  conv.taps() <= kMostKernelTaps;
    task_parts_ = join_parts_ ? view_.parts : 1;
    chunks_ = ceil_div(slices_ / task_parts_, max_of(1, fitting / kLanes));
  }

  // As Winograd::cost().
  double cost() const {
    const double tiles = static_cast<double>(grid_.count);
    const double channels = static_cast<double>(slices_ * kLanes);
    const double outputs = static_cast<double>(output_slices_ * kLanes);
    double inputs = 16 * tiles * (channels + outputs);
    const double parts = static_cast<double>(parts_);
    // Parts that do not begin with whole vectors are read value by value.
    if (!view_.whole() && conv_.channels % kLanes != 0)
      inputs += kReadByValue * tiles * static_cast<double>(view_.channels);
    double products = 0;
    for (int64_t plane = 0; plane < tile_.planes(); ++plane)
      products += static_cast<double>(plane_channels(view_, tile_, plane)) * outputs *
                  (1.05 * tiles + 16 * parts);
    // Taps of a channel's part are written one by one, or into kernels that are written together.
    const double scattered = join_parts_ ? 100 * static_cast<double>(conv_.channels * conv_.taps())
                             : view_.whole() ? 0
                                             : 160 * channels * static_cast<double>(tile_.taps());
    return static_cast<double>(conv_.groups) *
           (tile_.planes() * inputs + products + parts * outputs * scattered);
  }

  // Bytes that a call needs beside its arrays, without what only further threads have.
  double memory() const {
    const int64_t transformed = conv_.groups * (v_size(most_tiles()) + d_size(most_tiles()));
    return static_cast<double>((transformed + (chains_ - 1) * gradient_size()) * kBytes);
  }

  // dweight is (groups * outputs, planes, taps), dense. Returns false where memory is out.
  bool run(T* dweight) const {
    Arena arena(Scratch::kColumns);
    const size_t sums_at = arena.template reserve<T>((chains_ - 1) * gradient_size());
    if (!arena.allocate()) return false;
    T* sums = arena.template at<T>(sums_at);
    if (!parallel_for_whole(chains_, conv_.multiply_adds(), [&](int64_t chain) {
          return add_parts(parts_ * chain / chains_, parts_ * (chain + 1) / chains_,
                           chain == 0 ? dweight : sums + (chain - 1) * gradient_size());
        }))
      return false;
    if (chains_ == 1) return true;
    constexpr int64_t kBlock = 4096;
    const int64_t size = gradient_size();
    parallel_for(ceil_div(size, kBlock), static_cast<double>(chains_ * size), [&](int64_t task) {
      const int64_t end = min_of(size, (task + 1) * kBlock);
      for (int64_t chain = 1; chain < chains_; ++chain)
        for (int64_t k = task * kBlock; k < end; ++k) dweight[k] += sums[(chain - 1) * size + k];
    });
    return true;
  }

 private:
  int64_t gradient_size() const { return conv_.groups * conv_.outputs * conv_.reduction(); }

  // The gradient of the parts [begin, end).
  bool add_parts(int64_t begin, int64_t end, T* dweight) const {
    Arena arena(Scratch::kShared);
    const size_t v_at = arena.template reserve<T>(conv_.groups * v_size(most_tiles()));
    const size_t d_at = arena.template reserve<T>(conv_.groups * d_size(most_tiles()));
    if (!arena.allocate()) return false;
    T *v = arena.template at<T>(v_at), *d = arena.template at<T>(d_at);
    bool failed = false;
    for (int64_t part = begin; part < end && !failed; ++part) {
      const int64_t first = grid_.count * part / parts_, last = grid_.count * (part + 1) / parts_;
      transform_part(first, last, v, d, &failed);
      parallel_for(conv_.groups * panels_ * chunks_, conv_.multiply_adds(), [&](int64_t task) {
        const int64_t chunk = task % chunks_, panel = task / chunks_ % panels_;
        const int64_t group = task / chunks_ / panels_;
        if (!compute(group, panel, chunk, last - first, v, d, part > begin, dweight))
          __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        release_scratch(Scratch::kTask);
      });
    }
    return !failed;
  }

  int64_t most_tiles() const { return ceil_div(grid_.count, parts_); }
  int64_t tile_pitch() const { return slices_ * kLanes; }
  int64_t v_plane(int64_t tiles) const { return winograd_plane_pitch<T>(tiles * tile_pitch()); }
  int64_t v_size(int64_t tiles) const { return tile_.planes() * v_plane(tiles); }
  int64_t d_plane(int64_t tiles) const { return winograd_plane_pitch<T>(tiles * kNr); }
  int64_t d_panel(int64_t tiles) const { return tile_.planes() * d_plane(tiles); }
  int64_t d_size(int64_t tiles) const { return panels_ * d_panel(tiles); }
  int64_t panel_vectors(int64_t panel) const {
    return min_of(Block::kNv, output_slices_ - panel * Block::kNv);
  }

  // V and D of the tiles [first, end).
  void transform_part(int64_t first, int64_t end, T* v, T* d, bool* failed) const {
    const int64_t tiles = end - first;
    const int64_t inputs = ceil_div(slices_, kLineSlices);
    const int64_t lines = inputs + ceil_div(output_slices_, kLineSlices);
    const int64_t pieces = ceil_div(tiles, kPieceRuns * band_tiles(tile_));
    parallel_for(conv_.groups * pieces * lines, conv_.multiply_adds(), [&](int64_t task) {
      const int64_t line = task % lines, piece = task / lines % pieces;
      const int64_t group = task / lines / pieces;
      Arena arena(Scratch::kTask);
      const size_t band_at = arena.template reserve<T>(tile_.th() * band_pitch(tile_));
      if (!arena.allocate()) {
        __atomic_store_n(failed, true, __ATOMIC_RELAXED);
        return;
      }
      T* band = arena.template at<T>(band_at);
      const bool of_input = line < inputs;
      const int64_t slice0 = (of_input ? line : line - inputs) * kLineSlices;
      const int64_t slice1 = min_of(of_input ? slices_ : output_slices_, slice0 + kLineSlices);
      const int64_t stop = tiles * (piece + 1) / pieces;
      for (int64_t tile = tiles * piece / pieces; tile < stop;) {
        const TileRun run = grid_.run_at(first + tile, first + stop, band_tiles(tile_));
        for (int64_t slice = slice0; slice < slice1; ++slice)
          if (of_input)
            transform_input_run(view_, tile_, run, group, slice * kLanes,
                                v + group * v_size(tiles) + tile * tile_pitch() + slice * kLanes,
                                v_plane(tiles), tile_pitch(), band);
          else
            transform_gradient_run(run, group, slice, tile, tiles, d, band);
        tile += run.tiles;
      }
    });
  }

  void transform_gradient_run(const TileRun& run, int64_t group, int64_t slice, int64_t tile,
                              int64_t tiles, T* d, T* band) const {
    const int64_t output = slice * kLanes, panel = slice / Block::kNv;
    const int64_t pitch = panel_vectors(panel) * kLanes;
    view_.fill_gradient(group, output, run.image, run.row * tile_.mh, run.column * tile_.mw,
                        tile_.mh, run.tiles * tile_.mw, band, band_pitch(tile_));
    tile_.output_gradient(band, band_pitch(tile_), run.tiles,
                          d + group * d_size(tiles) + panel * d_panel(tiles) + tile * pitch +
                              slice % Block::kNv * kLanes,
                          d_plane(tiles), pitch);
  }

  bool compute(int64_t group, int64_t panel, int64_t chunk, int64_t tiles, const T* v, const T* d,
               bool accumulate, T* dweight) const {
    const int64_t slices = slices_ / task_parts_, part_channels = view_.channels / task_parts_;
    const int64_t c0 = slices * chunk / chunks_ * kLanes;
    const int64_t c1 = min_of(part_channels, slices * (chunk + 1) / chunks_ * kLanes);
    const int64_t channels = c1 - c0, pitch = panel_vectors(panel) * kLanes;
    const int64_t du_plane = winograd_plane_pitch<T>(channels * pitch);
    Arena arena(Scratch::kTask);
    const size_t du_at = arena.template reserve<T>(tile_.planes() * du_plane);
    const size_t taps_at = arena.template reserve<T>(kTapChannels * tile_.taps() * kLanes);
    const size_t kernels_at =
        arena.template reserve<T>(join_parts_ ? channels * conv_.taps() * pitch : 0);
    if (!arena.allocate()) return false;
    T *du = arena.template at<T>(du_at), *taps = arena.template at<T>(taps_at);
    T* kernels = join_parts_ ? arena.template at<T>(kernels_at) : nullptr;
    for (int64_t part = 0; part < task_parts_; ++part) {
      const int64_t first = part * part_channels + c0;
      multiply(panel, first, channels, tiles, v + group * v_size(tiles) + first,
               d + group * d_size(tiles) + panel * d_panel(tiles), du);
      transform_products(group, panel, first, channels, du, taps, kernels, accumulate, dweight);
    }
    // One vector of outputs after the other: [channel][tap][lane].
    for (int64_t v = 0; kernels && v < panel_vectors(panel); ++v)
      for (int64_t c = 0; c < channels; c += kTapChannels)
        write_taps(group, panel * kNr + v * kLanes, c0 + c,
                   min_of(kTapChannels, channels - c) * conv_.taps(),
                   kernels + (v * channels + c) * conv_.taps() * kLanes, accumulate, dweight);
    return true;
  }

  // dU of a panel, for `channels` channels of the view from `first` on.
  void multiply(int64_t panel, int64_t first, int64_t channels, int64_t tiles, const T* v,
                const T* d, T* du) const {
    const int64_t vectors = panel_vectors(panel), pitch = vectors * kLanes;
    const int64_t du_plane = winograd_plane_pitch<T>(channels * pitch);
    const int64_t strips = ceil_div(channels, Block::kMr),
                  passes = ceil_div(tiles, tile_.longest_chain(kPass));
    for (int64_t plane = 0; plane < tile_.planes(); ++plane) {
      if (first >= plane_channels(view_, tile_, plane)) continue;
      for (int64_t pass = 0; pass < passes; ++pass) {
        const int64_t t0 = tiles * pass / passes, t1 = tiles * (pass + 1) / passes;
        for (int64_t strip = 0; strip < strips; ++strip) {
          const int64_t row = channels * strip / strips;
          const int64_t rows = channels * (strip + 1) / strips - row;
          MicroKernels<T>::run(
              rows, vectors,
              {v + plane * v_plane(tiles) + t0 * tile_pitch() + row, nullptr, tile_pitch()},
              {d + plane * d_plane(tiles) + t0 * pitch, nullptr}, {1, t1 - t0, 0},
              {du + plane * du_plane + row * pitch, pitch, nullptr, pass > 0});
        }
      }
    }
  }

  // Transforms dU and writes the taps to the gradient, or to `kernels`, if that is not null. `taps`
  // is room for those of kTapChannels channels.
  void transform_products(int64_t group, int64_t panel, int64_t first, int64_t channels,
                          const T* du, T* taps, T* kernels, bool accumulate, T* dweight) const {
    const int64_t vectors = panel_vectors(panel), pitch = vectors * kLanes;
    const int64_t du_plane = winograd_plane_pitch<T>(channels * pitch);
    for (int64_t v = 0; v < vectors; ++v)
      for (int64_t c = 0; c < channels; c += kTapChannels) {
        const int64_t count = min_of(kTapChannels, channels - c);
        for (int64_t i = 0; i < count; ++i)
          tile_.weight_gradient(du + (c + i) * pitch + v * kLanes, du_plane,
                                taps + i * tile_.taps() * kLanes);
        const int64_t m = panel * kNr + v * kLanes;
        if (kernels) {
          place_taps(group, first + c, count, taps,
                     kernels + (v * channels + c) * conv_.taps() * kLanes);
          continue;
        }
        if (!view_.whole()) {
          for (int64_t i = 0; i < count; ++i)
            write_part(group, m, first + c + i, taps + i * tile_.taps() * kLanes, accumulate,
                       dweight);
          continue;
        }
        if (conv_.d.taps == 1) {
          write_taps(group, m, first + c, count * conv_.taps(), taps, accumulate, dweight);
          continue;
        }
        for (int64_t i = 0; i < count; ++i)
          write_taps(group, m, view_.plane(first + c + i), conv_.taps(),
                     taps + i * conv_.taps() * kLanes, accumulate, dweight);
      }
  }

  // The taps of a part of `count` channels, to their places in whole kernels.
  void place_taps(int64_t group, int64_t channel, int64_t count, const T* taps, T* kernels) const {
    const typename NeighbourView<T>::Taps places = view_.taps(group, channel);
    for (int64_t t = 0; t < tile_.taps(); ++t) {
      int64_t row, column;
      if (!view_.find_tap(places, t / tile_.rw, t % tile_.rw, &row, &column)) continue;
      for (int64_t i = 0; i < count; ++i)
        store<T>(kernels + (i * conv_.taps() + row * conv_.w.taps + column) * kLanes,
                 load<T>(taps + (i * tile_.taps() + t) * kLanes));
    }
  }

  // From [value][lane] to rows of the gradient: lane is an output from m on, and the values are
  // those of the taps of neighbouring planes from `plane` on.
  void write_taps(int64_t group, int64_t m, int64_t plane, int64_t values, const T* taps,
                  bool accumulate, T* dweight) const {
    const int64_t outputs = min_of(kLanes, conv_.outputs - m), row = conv_.reduction();
    T* to = dweight + (group * conv_.outputs + m) * row + plane * conv_.taps();
    if (!accumulate && outputs == kLanes && values >= kLanes) {
      for (int64_t k = 0; k < values; k += kLanes) {
        const int64_t at = min_of(k, values - kLanes);
        transpose_square(taps + at * kLanes, kLanes, to + at, row);
      }
      return;
    }
    for (int64_t lane = 0; lane < outputs; ++lane, to += row)
      for (int64_t k = 0; k < values; ++k)
        to[k] = taps[k * kLanes + lane] + (accumulate ? to[k] : T(0));
  }

  // The same of a channel of the view that is a part of a plane.
  void write_part(int64_t group, int64_t m, int64_t channel, const T* taps, bool accumulate,
                  T* dweight) const {
    const int64_t outputs = min_of(kLanes, conv_.outputs - m), row = conv_.reduction();
    T* plane = dweight + (group * conv_.outputs + m) * row + view_.plane(channel) * conv_.taps();
    const typename NeighbourView<T>::Taps places = view_.taps(group, channel);
    for (int64_t t = 0; t < tile_.taps(); ++t, taps += kLanes) {
      int64_t i, j;
      if (!view_.find_tap(places, t / tile_.rw, t % tile_.rw, &i, &j)) continue;
      T* to = plane + i * conv_.w.taps + j;
      for (int64_t lane = 0; lane < outputs; ++lane, to += row)
        *to = taps[lane] + (accumulate ? *to : T(0));
    }
  }

  const NeighbourView<T> view_;
  const TapConvolution<T> conv_;
  const WinogradTile<T> tile_;
  const TileGrid grid_;
  int64_t slices_, output_slices_;  // of kLanes channels and outputs of a group
  int64_t panels_;                  // of a group's outputs
  int64_t parts_;                   // of the tiles, each transformed at once
  int64_t chains_;                  // of parts that are added up one after the other
  int64_t task_parts_;              // of each channel that a task computes
  int64_t chunks_;                  // of a group's channels, each of whole slices
  bool join_parts_;                 // do tasks compute all parts of their channels?
};

}  // namespace convpool::CONVPOOL_ISA
