// Whether Winograd's convolution may be chosen: its results have larger rounding errors than a sum
// of products.
#pragma once

namespace convpool {

bool winograd_enabled();
// Overrides GLUON_CONVPOOL_WINOGRAD.
void enable_winograd(bool enabled);

}  // namespace convpool
