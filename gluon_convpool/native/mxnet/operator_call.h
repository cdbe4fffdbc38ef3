// What stands around each function of an operator that MXNet calls: no exception leaves it.
//
// An operator is a file: attributes in, shapes and types inferred, kernel called, registered.
// Nothing outside of this folder knows MXNet.
//
// Each operator stands under two names, with the prefix _npx_ for mx.np arrays and without it for
// legacy ones. Names and attributes are written into users' exported files: see docs/OPERATORS.md.
#pragma once

#include <mxnet/lib_api.h>

#include <cstddef>
#include <exception>
#include <new>

#include "../convpool.h"
#include "../large_pages.h"
#include "arrays.h"
#include "extension.h"

namespace convpool {

using mxnet::ext::MX_FAIL;
using mxnet::ext::MX_SUCCESS;
using mxnet::ext::MXReturnValue;

// Exceptions end here; MXNet gets their sentence.
template <typename Body>
MXReturnValue guarded(const Body& body) {
  try {
    set_message("");
    body();
    return MX_SUCCESS;
  } catch (const std::bad_alloc&) {
    set_message("out of memory");
    return MX_FAIL;
  } catch (const std::exception& error) {
    set_message(error.what());
    return MX_FAIL;
  }
}

// The same for a body that writes `out`.
template <typename Body>
MXReturnValue computed(const Tensors* out, const Body& body) {
  for (const MXTensor& array : *out)
    ask_for_large_pages(array.data_ptr, static_cast<size_t>(elements(array)) * value_bytes(array));
  return guarded(body);
}

void check_status(const char* op, convpool_status status);

}  // namespace convpool
