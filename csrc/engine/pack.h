#pragma once
#include "engine/plan.h"

namespace stmixer::engine {

// The projection's geometry, tiles and packed weights; target has only its channels.
ProjectStep project_step(const Projection& p, const Shape& in, const Shape& out, bool spikes,
                         int max_units);

// The spike lists that a gathering step reads.
ListLayout list_layout(const ProjectStep& step, bool by_channel);

}  // namespace stmixer::engine
