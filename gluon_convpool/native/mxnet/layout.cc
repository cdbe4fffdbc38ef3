#include "layout.h"

#include "attribute_checks.h"
#include "sentences.h"

namespace convpool {

std::string checked_layout(const char* op, const Attributes& attributes) {
  const std::string layout = attributes.string("layout", "NCHW");
  for (const char* known : {"NCW", "NCHW", "NCDHW", "NWC", "NHWC", "NDHWC"})
    if (layout == known) return layout;
  refuse_choice(op, "layout", quoted(layout), "'NCW', 'NCHW', 'NCDHW', 'NWC', 'NHWC', 'NDHWC'");
}

}  // namespace convpool
