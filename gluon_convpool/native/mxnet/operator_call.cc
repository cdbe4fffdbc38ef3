#include "operator_call.h"

#include <string>

#include "sentences.h"

namespace convpool {

void check_status(const char* op, convpool_status status) {
  if (status == CONVPOOL_OUT_OF_MEMORY) fail(std::string(op) + ": out of memory");
  if (status == CONVPOOL_UNSUPPORTED) fail(std::string(op) + ": no kernel has these arguments");
}

}  // namespace convpool
