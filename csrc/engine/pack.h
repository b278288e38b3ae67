#pragma once
#include <vector>

#include "engine/plan.h"

namespace stmixer::engine {

// Channels per block of a spike list, of about `rows` weight rows per ky.
int channel_block(int channels, const Geometry& g, int rows);

// The projection's geometry, tiles and packed weights; target has only its channels.
ProjectStep project_step(const Projection& p, const Shape& in, const Shape& out, bool spikes,
                         int max_units);

// The same for an int8 network, target with its scale. `from_mean`: the head.
ProjectStep integer_step(const Projection& p, const Shape& in, const Shape& out, bool spikes,
                         bool from_mean, int vector_bytes);

// Geometry, groups and channels, which do not depend on the kind of numbers.
void set_geometry(ProjectStep& s, const Projection& p, const Shape& in, const Shape& out);

// The spike lists that a gathering step reads.
ListLayout list_layout(const ProjectStep& step, bool by_channel);

// How far from zero what a projection adds to its current can lie, whatever its source does; in
// the current's units.
int64_t integer_bound(const Projection& p, const Shape& in, const Shape& out, bool spikes);

}  // namespace stmixer::engine
