#pragma once
#include <memory>

#include "events/process.h"

namespace stmixer::events {

std::unique_ptr<Process> make_grid(const Model& model);

}  // namespace stmixer::events
