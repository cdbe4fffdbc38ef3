// Remembers which kernel a convolution goes to: estimating what each would cost takes longer than a
// small convolution, and a network asks the same again and again.
#pragma once

#include "convpool.h"

namespace convpool {

struct Choice {
  const void* chosen;  // what the search chooses among; null: nothing serves
  double cost;
};

// Looks at the sizes of the convolution, at what its packed weight holds and at the Winograd
// switch, and at nothing else that can change.
using ChoiceSearch = Choice (*)(const convpool_convolution&, convpool_pass);

// What the search finds, from memory where the calling thread had it search for an equal one
// lately.
Choice remembered_choice(ChoiceSearch search, const convpool_convolution& conv, convpool_pass pass);

}  // namespace convpool
