#include "events/relays.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "graph/kinds.h"

namespace stmixer::events {
namespace {

using Kind = Projection::Kind;

constexpr int64_t kAlways = std::numeric_limits<int64_t>::min();
constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

int64_t later(int64_t t, int64_t by) { return t > kForever - by ? kForever : t + by; }

// Calls visit(output pixel) for each window of a pool that holds the pixel.
template <class Visit>
void for_windows(const Relay& relay, int pixel, const Visit& visit) {
  const Projection& p = *relay.projection;
  const Shape &in = relay.in[0], &out = relay.out;
  const auto range = [&](int at, int outputs) {
    const int shifted = at + p.padding;
    const int first = shifted < p.kernel ? 0 : (shifted - p.kernel) / p.stride + 1;
    return std::pair(first, std::min(shifted / p.stride + 1, outputs));
  };
  const auto [top, bottom] = range(pixel / in.width, out.height);
  const auto [left, right] = range(pixel % in.width, out.width);
  for (int y = top; y < bottom; ++y)
    for (int x = left; x < right; ++x) visit(y * out.width + x);
}

}  // namespace

void check_relays(const Layout& layout, const Options& options) {
  const auto& populations = layout.graph().populations;
  const bool graded = std::any_of(populations.begin(), populations.end(),
                                  [](const auto& p) { return p.kind == Population::Kind::graded; });
  const auto is_zero = [](auto value) { return value == 0; };
  const auto none = [&](const auto& values) {
    return std::all_of(values.begin(), values.end(), is_zero);
  };
  if ((graded || !layout.relays.empty()) &&
      !(none(options.delay_us) && none(options.jitter_us) && none(options.drop)))
    throw std::invalid_argument(
        "delay_us, jitter_us and drop are not for networks with pools, spike products or graded "
        "populations");
  if (options.schedule == Schedule::grid) return;
  std::string names;
  for (const Wire& wire : layout.wires) {
    const Projection& p = *wire.projection;
    if (!p.clocked_only) continue;
    if (!graph::needs_clock(p.kind))
      events_error(p.name, "is marked clocked_only: it needs schedule 'grid'");
    names += (names.empty() ? "'" : ", '") + p.name + "' (" + graph::kind_name(p.kind) + ")";
  }
  if (!names.empty() && options.latch_us < 0)
    throw std::invalid_argument(
        "latch_us: without a clock no spikes come together for " + names +
        "; latch_us says for how many microseconds a spike is held for others, or keeps them out "
        "of its pool (0: it does not)");
  for (const Relay& relay : layout.relays)
    for (const auto& operand : relay.operands)
      if (relay.operands.size() == 3 &&
          (operand.size() != 1 || !layout.is_population(operand[0].source)))
        events_error(relay.projection->name,
                     "multiplies what are not the spikes of one population each: it needs schedule "
                     "'grid'");
}

Latch::Latch(const Relay& relay, int64_t latch_us) : relay_(&relay), latch_us_(latch_us) {
  const int64_t out = int64_t{relay.out.channels} * relay.out.pixels();
  counts_.assign(out, 0);
  if (relay.projection->kind == Kind::max_pool && latch_us > 0) blocked_until_.assign(out, kAlways);
  if (relay.projection->kind != Kind::spike_product) return;
  for (const Shape& in : relay.in) {
    const int64_t size = int64_t{in.channels} * in.pixels();
    bits_.push_back({in.channels, std::vector<uint8_t>(size), std::vector<int64_t>(size)});
  }
}

void Latch::pass(const std::vector<std::vector<Arrival>>& fired, int64_t t,
                 std::vector<Arrival>* emitted) {
  if (!bits_.empty()) expire(t);
  for (size_t operand = 0; operand < relay_->operands.size(); ++operand) {
    for (const Tap& tap : relay_->operands[operand]) {
      for (Arrival spike : fired[tap.source]) {
        spike.channel += tap.channel;
        bits_.empty() ? pool(spike, t) : set(static_cast<int>(operand), spike, t);
      }
    }
  }
  std::sort(touched_.begin(), touched_.end());
  const int pixels = relay_->out.pixels();
  for (int32_t i : touched_) {
    emitted->push_back({i / pixels, i % pixels, counts_[i]});
    counts_[i] = 0;
  }
  touched_.clear();
}

void Latch::add(int channel, int pixel, int count) {
  const int i = channel * relay_->out.pixels() + pixel;
  if (count > 0 && counts_[i] == 0) touched_.push_back(i);
  counts_[i] += count;
}

void Latch::pool(const Arrival& spike, int64_t t) {
  for_windows(*relay_, spike.pixel, [&](int pixel) {
    if (blocked_until_.empty()) return add(spike.channel, pixel, spike.count);
    int64_t& until = blocked_until_[int64_t{spike.channel} * relay_->out.pixels() + pixel];
    if (t < until) return;
    until = later(t, latch_us_);
    add(spike.channel, pixel, 1);
  });
}

void Latch::set(int operand, const Arrival& spike, int64_t t) {
  Bits& own = bits_[operand];
  const int64_t bit = int64_t{spike.pixel} * own.channels + spike.channel;
  const int64_t until = later(t, std::max<int64_t>(latch_us_, 1));
  if (own.until[bit] != until || !own.set[bit]) expiries_.push_back({until, operand, bit});
  own.until[bit] = until;
  if (own.set[bit]) return;
  own.set[bit] = 1;
  const Bits &q = bits_[0], &k = bits_[1], &v = bits_[2];
  // Channels of the head: of query and key, and of the value.
  const int each = q.channels / relay_->projection->heads;
  const int values = v.channels / relay_->projection->heads;
  const int head = spike.channel / (operand == 2 ? values : each);
  const int first = head * each, first_value = head * values;
  const int queries = relay_->in[0].pixels(), keys = relay_->in[1].pixels();
  if (operand == 0) {
    for (int j = 0; j < keys; ++j)
      for (int c = first_value; k.pixel(j)[spike.channel] && c < first_value + values; ++c)
        add(c, spike.pixel, v.pixel(j)[c]);
  } else if (operand == 1) {
    for (int i = 0; i < queries; ++i)
      for (int c = first_value; q.pixel(i)[spike.channel] && c < first_value + values; ++c)
        add(c, i, v.pixel(spike.pixel)[c]);
  } else {
    for (int i = 0; i < queries; ++i) {
      int count = 0;
      for (int d = first; d < first + each; ++d) count += q.pixel(i)[d] & k.pixel(spike.pixel)[d];
      add(spike.channel, i, count);
    }
  }
}

void Latch::expire(int64_t t) {
  for (; !expiries_.empty() && expiries_.front().t <= t; expiries_.pop_front()) {
    const Expiry& e = expiries_.front();
    Bits& bits = bits_[e.operand];
    if (bits.until[e.bit] == e.t) bits.set[e.bit] = 0;  // else it has been set again
  }
}

namespace {

using Values = std::vector<float>;  // [channel][pixel]

Values dense(const Relay& relay, size_t operand,
             const std::vector<std::vector<Emission<float>>>& values) {
  const int pixels = relay.in[operand].pixels();
  Values dense(size_t(relay.in[operand].channels) * pixels, 0.0f);
  for (const Tap& tap : relay.operands[operand])
    for (const Emission<float>& e : values[tap.source])
      dense[size_t(e.channel + tap.channel) * pixels + e.pixel] += e.value;
  return dense;
}

Values pooled(const Relay& relay, const Values& in) {
  const bool largest = relay.projection->kind == Kind::max_pool;
  const int pixels = relay.in[0].pixels(), windows = relay.out.pixels();
  const float none = largest ? -std::numeric_limits<float>::infinity() : 0.0f;
  Values out(size_t(relay.out.channels) * windows, none);
  for (int pixel = 0; pixel < pixels; ++pixel)
    for_windows(relay, pixel, [&](int window) {
      for (int c = 0; c < relay.out.channels; ++c) {
        const float x = in[size_t(c) * pixels + pixel];
        float& y = out[size_t(c) * windows + window];
        y = largest ? std::max(y, x) : y + x;
      }
    });
  return out;
}

Values product(const Relay& relay, const Values& q, const Values& k, const Values& v) {
  const int heads = relay.projection->heads, each = relay.in[0].channels / heads;
  const int values = relay.in[2].channels / heads;
  const int queries = relay.in[0].pixels(), keys = relay.in[1].pixels();
  Values out(size_t(relay.out.channels) * queries, 0.0f);
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < queries; ++i)
      for (int j = 0; j < keys; ++j) {
        float score = 0;
        for (int d = h * each; d < (h + 1) * each; ++d)
          score += q[size_t(d) * queries + i] * k[size_t(d) * keys + j];
        for (int c = h * values; score != 0 && c < (h + 1) * values; ++c)
          out[size_t(c) * queries + i] += score * v[size_t(c) * keys + j];
      }
  return out;
}

}  // namespace

void relay_tick(const Relay& relay, const std::vector<std::vector<Emission<float>>>& values,
                std::vector<Emission<float>>* emitted) {
  std::vector<Values> in;
  for (size_t i = 0; i < relay.operands.size(); ++i) in.push_back(dense(relay, i, values));
  const Values out = in.size() == 3 ? product(relay, in[0], in[1], in[2]) : pooled(relay, in[0]);
  const int pixels = relay.out.pixels();
  for (size_t i = 0; i < out.size(); ++i)
    if (out[i] != 0)
      emitted->push_back(
          {static_cast<int32_t>(i / pixels), static_cast<int32_t>(i % pixels), out[i]});
}

}  // namespace stmixer::events
