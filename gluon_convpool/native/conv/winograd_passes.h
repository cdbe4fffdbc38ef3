// The passes of a convolution by Winograd's transforms, and the size of tile that costs least.
#pragma once

#include "../choice_memo.h"
#include "../winograd_switch.h"
#include "implicit_gemm_passes.h"
#include "winograd.h"
#include "winograd_weight_gradient.h"

namespace convpool::CONVPOOL_ISA {

namespace winograd {

template <typename T>
inline constexpr const WinogradTile<T>* kTiles[] = {
    &kWinogradTile<T, 3, 2, 3, 2>, &kWinogradTile<T, 4, 2, 4, 2>, &kWinogradTile<T, 5, 2, 3, 2>,
    &kWinogradTile<T, 5, 2, 5, 2>, &kWinogradTile<T, 2, 3, 2, 3>, &kWinogradTile<T, 4, 3, 4, 3>,
    &kWinogradTile<T, 5, 3, 5, 3>, &kWinogradTile<T, 2, 5, 2, 5>, &kWinogradTile<T, 4, 5, 2, 5>,
    &kWinogradTile<T, 4, 5, 4, 5>, &kWinogradTile<T, 3, 4, 3, 4>, &kWinogradTile<T, 5, 4, 3, 4>,
    &kWinogradTile<T, 5, 4, 5, 4>, &kWinogradTile<T, 1, 1, 5, 2>, &kWinogradTile<T, 5, 2, 1, 1>,
    &kWinogradTile<T, 1, 1, 4, 3>, &kWinogradTile<T, 4, 3, 1, 1>, &kWinogradTile<T, 1, 1, 6, 3>,
    &kWinogradTile<T, 6, 3, 1, 1>, &kWinogradTile<T, 1, 1, 4, 5>, &kWinogradTile<T, 4, 5, 1, 1>,
    &kWinogradTile<T, 1, 1, 4, 7>, &kWinogradTile<T, 4, 7, 1, 1>,
};

template <typename T>
struct TileChoice {
  const WinogradTile<T>* tile;
  double cost;
};

// The size of tile that costs least, and how much; one that is less exact only where it saves time
// that is worth it. Null where no size fits the kernel, or where all need more than `most_bytes` of
// memory.
template <typename T, template <typename> class Computation>
inline TileChoice<T> choose_tile(const TapConvolution<T>& problem, double most_bytes) {
  constexpr double kWorthwhile = 1.15;
  TileChoice<T> best{nullptr, 0};
  double least = 0;
  for (const WinogradTile<T>* tile : kTiles<T>) {
    if (!NeighbourView<T>::exists(problem, tile->rh, tile->rw)) continue;
    const Computation<T> computation(problem, *tile);
    if (tile->planes() > Computation<T>::kMostPlanes) continue;
    if (computation.memory() > most_bytes) continue;
    const double cost = computation.cost();
    const double weighed = tile->is_less_exact() ? kWorthwhile * cost : cost;
    if (best.tile && weighed >= least) continue;
    best = {tile, cost};
    least = weighed;
  }
  return best;
}

template <typename T>
inline double array_bytes(const convpool_convolution& conv) {
  const convpool_window& window = conv.window;
  const double in = static_cast<double>(conv.batch * conv.in_channels) *
                    static_cast<double>(window.in_size[0] * window.in_size[1] * window.in_size[2]);
  const double out =
      static_cast<double>(conv.batch * conv.out_channels) *
      static_cast<double>(window.out_size[0] * window.out_size[1] * window.out_size[2]);
  const double weight = static_cast<double>(conv.out_channels * conv.in_channels / conv.groups) *
                        static_cast<double>(window.kernel[0] * window.kernel[1] * window.kernel[2]);
  return (in + out + weight) * static_cast<double>(sizeof(T));
}

// Bytes that a pass may need beside its arrays. Training holds so many arrays that the gradient of
// the weight may need more; and what stays in cache anyway may be had by the smallest convolution.
template <typename T>
inline double most_bytes(const convpool_convolution& conv, convpool_pass pass) {
  const double arrays = array_bytes<T>(conv), cache = 256 << 10, most = 64 << 20;
  if (pass == CONVPOOL_BACKWARD_WEIGHT) return cache + 5 * arrays;
  return cache + 2 * arrays < most ? cache + 2 * arrays : most;
}

// The same for a phase of the gradient by the input, which goes to the implicit GEMM, as a null
// tile says, where that serves it and costs less.
template <typename T>
inline TileChoice<T> choose_for_phase(const convpool_convolution& conv,
                                      const TapConvolution<T>& problem, double most_bytes) {
  const TileChoice<T> tile = choose_tile<T, Winograd>(problem, most_bytes);
  if (conv.layout == CONVPOOL_CHANNEL_LAST) return tile;
  const double gemm = implicit_gemm::phase_cost(problem);
  return tile.tile && tile.cost < gemm ? tile : TileChoice<T>{nullptr, gemm};
}

template <typename T>
inline TileChoice<T> search_tile(const convpool_convolution& conv, convpool_pass pass) {
  constexpr int64_t kLongest = 128;
  for (const int64_t size : conv.window.kernel)
    if (size > kLongest) return {nullptr, 0};
  int64_t taps[6 * kLongest];
  const double most = most_bytes<T>(conv, pass);
  if (pass == CONVPOOL_FORWARD)
    return choose_tile<T, Winograd>(forward_problem<T>(conv, taps), most);
  if (pass == CONVPOOL_BACKWARD_WEIGHT)
    return choose_tile<T, WinogradWeightGradient>(forward_problem<T>(conv, taps), most);
  // One of the tiles, and the cost of all phases of the stride. With channels last, each needs one.
  TileChoice<T> all{nullptr, 0};
  const bool complete = for_each_phase(
      conv, backward_problem<T>(conv, taps), [&](const TapConvolution<T>& problem, int64_t) {
        const TileChoice<T> phase = choose_for_phase(conv, problem, most);
        all = {phase.tile ? phase.tile : all.tile, all.cost + phase.cost};
        return phase.tile || conv.layout == CONVPOOL_CHANNEL_FIRST;
      });
  return complete ? all : TileChoice<T>{nullptr, 0};
}

template <typename T>
inline TileChoice<T> choose(const convpool_convolution& conv, convpool_pass pass) {
  const ChoiceSearch search = [](const convpool_convolution& problem, convpool_pass which) {
    const TileChoice<T> found = search_tile<T>(problem, which);
    return Choice{found.tile, found.cost};
  };
  const Choice choice = remembered_choice(search, conv, pass);
  return {static_cast<const WinogradTile<T>*>(choice.chosen), choice.cost};
}

template <typename T>
inline bool supports(const convpool_convolution& conv, convpool_pass pass) {
  return winograd_enabled() && choose<T>(conv, pass).tile != nullptr;
}

template <typename T>
inline double cost(const convpool_convolution& conv, convpool_pass pass) {
  return choose<T>(conv, pass).cost;
}

template <typename T>
inline bool forward(const convpool_convolution& conv, const T* x, const T* weight, const T* bias,
                    const Epilogue<T>& epilogue, T* y) {
  return with_forward_problem(
      conv, x, weight, bias, epilogue, y, [&](const TapConvolution<T>& problem) {
        return Winograd<T>(problem, *choose<T>(conv, CONVPOOL_FORWARD).tile).run();
      });
}

template <typename T>
inline bool backward_data(const convpool_convolution& conv, const T* dy, const T* weight, T* dx) {
  const TapStorage taps(conv.window);
  if (!taps.get()) return false;
  TapConvolution<T> gradient = backward_problem<T>(conv, taps.get());
  gradient.in = dy;
  gradient.weight = weight;
  const double most = most_bytes<T>(conv, CONVPOOL_BACKWARD_DATA);
  return for_each_phase(conv, gradient, [&](TapConvolution<T> problem, int64_t first) {
    problem.out = dx + first;
    const WinogradTile<T>* tile = choose_for_phase(conv, problem, most).tile;
    return tile ? Winograd<T>(problem, *tile).run() : implicit_gemm::run_phase(problem);
  });
}

template <typename T>
inline bool backward_weight(const convpool_convolution& conv, const T* x, const T* dy, T* dweight) {
  return with_weight_gradient_problem(conv, x, dy, [&](const TapConvolution<T>& problem) {
    const WinogradTile<T>* tile = choose<T>(conv, CONVPOOL_BACKWARD_WEIGHT).tile;
    const WinogradWeightGradient<T> gradient(problem, *tile);
    if (conv.layout == CONVPOOL_CHANNEL_FIRST) return gradient.run(dweight);
    const int64_t taps = problem.d.taps * problem.taps();
    Arena arena(Scratch::kLayout);
    const size_t first_at = arena.template reserve<T>(conv.out_channels * problem.channels * taps);
    if (!arena.allocate()) return false;
    T* first = arena.template at<T>(first_at);
    if (!gradient.run(first)) return false;
    transpose_matrices(first, conv.out_channels, problem.channels, taps, dweight);
    return true;
  });
}

}  // namespace winograd

}  // namespace convpool::CONVPOOL_ISA
