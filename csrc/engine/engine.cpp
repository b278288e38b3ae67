#include "stmixer/engine.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "engine/run.h"
#include "engine/tables.h"

namespace stmixer::engine {
namespace {

// How many times this process has been forked off another. Threads do not survive a fork and locks
// survive it in any state, so whatever holds either is made anew when the count has changed.
std::atomic<unsigned> forks{0};

void count_forks() {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });
  (void)registered;
#endif
}

// What belongs to the process rather than to the graph.
struct Runtime {
  Runtime(int threads, unsigned generation)
      : generation(generation),
        pool(threads),
        workspaces(std::max(2, static_cast<int>(std::thread::hardware_concurrency()))) {}

  const unsigned generation;
  Pool pool;
  WorkspacePool workspaces;
};

// The pool for this run if nobody else has it, else null.
class PoolLease {
 public:
  explicit PoolLease(Pool& pool) : pool_(pool.try_acquire() ? &pool : nullptr) {}
  ~PoolLease() {
    if (pool_ != nullptr) pool_->release();
  }
  PoolLease(const PoolLease&) = delete;
  PoolLease& operator=(const PoolLease&) = delete;
  Pool* get() const { return pool_; }

 private:
  Pool* const pool_;
};

void describe(const Plan& plan, const LoadStep&, StepInfo* info) {
  info->kernel = plan.integer ? "load int16" : "load fp32";
}
void describe(const Plan&, const ListStep&, StepInfo* info) { info->kernel = "lists"; }
void describe(const Plan&, const SumStep&, StepInfo* info) { info->kernel = "sum"; }
void describe(const Plan&, const FireStep&, StepInfo* info) { info->kernel = "neurons"; }
void describe(const Plan&, const RateStep&, StepInfo* info) { info->kernel = "rates"; }
void describe(const Plan& plan, const ProjectStep& step, StepInfo* info) {
  static constexpr const char* kKinds[] = {"gather", "dense", "mean", "head"};
  info->kernel = kKinds[static_cast<int>(step.kind)];
  info->weight_bytes = step.weight_bytes * step.groups * step.group_weights;
  if (step.kind == ProjectStep::Kind::mean) return;
  if (plan.integer) {
    const bool seven = step.weight_bytes == 1 && step.seven_bits;
    info->kernel += " int" + std::to_string(seven ? 7 : 8 * step.weight_bytes);
  } else {
    info->kernel += " fp32 " + std::to_string(step.tiles[0].units) + "x" + std::to_string(kUnit);
  }
}

[[noreturn]] void fail(const char* what, const char* expected, int64_t got) {
  throw std::invalid_argument(std::string(what) + " must " + expected + ", got " +
                              std::to_string(got));
}

void check_pointer(const void* pointer, const char* what) {
  if (pointer == nullptr) throw std::invalid_argument(std::string(what) + " must not be null");
}

void check_size(const char* what, size_t size, size_t expected, const char* entry) {
  if (size == expected) return;
  const std::string entries = "have " + std::to_string(expected) + " entries, one per " + entry;
  fail(what, entries.c_str(), static_cast<int64_t>(size));
}

// The input with everything said that it leaves to the network.
Input complete(Input input, const Shape& shape, int network_steps) {
  check_pointer(input.data, "Input::data");
  if (input.batch < 1) fail("Input::batch", "be at least 1", input.batch);
  if (input.steps < 0) fail("Input::steps", "be at least 1, or 0 for the network's", input.steps);
  if (!input.sequence && input.step_stride != Input::kDense && input.step_stride != 0)
    fail("Input::step_stride", "be left alone unless Input::sequence is set", input.step_stride);
  if (input.steps == 0) input.steps = network_steps;
  if (input.image_stride == Input::kDense)
    input.image_stride = int64_t{shape.channels} * shape.pixels();
  if (input.step_stride == Input::kDense)
    input.step_stride = input.sequence ? input.batch * input.image_stride : 0;
  return input;
}

void check(const Recording& recording, const Plan& plan) {
  size_t populations = 0;
  for (const Step& step : plan.steps) populations += fired_by(step) >= 0;
  if (!recording.spikes.empty())
    check_size("Recording::spikes", recording.spikes.size(), populations, "LIF population");
  for (const uint8_t* spikes : recording.spikes) check_pointer(spikes, "Recording::spikes[i]");
  if (recording.activity != nullptr)
    check_size("Recording::activity", recording.activity->size(), populations, "LIF population");
  if (recording.work != nullptr)
    check_size("Recording::work", recording.work->size(), plan.steps.size(), "step");
}

}  // namespace

struct Engine::State {
  State(const Graph& graph, int threads)
      : threads(threads), steps(graph.steps), isa(current_isa()), kernels(kernels_of(isa)) {
    const CheckedGraph checked = check_graph(graph);
    plan = make_plan(checked, {kernels.project.max_units, kernels.integer.vector_bytes});
    counter = std::make_unique<ActivityCounter>(plan);
    count_forks();
    runtime.store(new Runtime(threads, forks.load()));
  }

  ~State() {
    Runtime* r = runtime.load();
    // One from before a fork has threads to join that are not there: it is left alone.
    if (r->generation == forks.load()) delete r;
  }

  Runtime& current_runtime() {
    Runtime* r = runtime.load(std::memory_order_acquire);
    const unsigned generation = forks.load();
    if (r->generation == generation) return *r;
    Runtime* fresh = new Runtime(threads, generation);
    if (runtime.compare_exchange_strong(r, fresh)) return *fresh;
    delete fresh;
    return *r;
  }

  // As many images as each thread can have equally many of; returns how many these are. A thread
  // alone with its images finds in its own cache what it wrote, and nobody waits between the steps.
  int run_alone(const Input& input, const Workspace& workspace, Pool& pool, float* logits,
                bool* finite) const {
    const int each = input.batch / threads, images = each * threads;
    if (each == 0) return 0;
    const int slices = ceil_div(each, workspace.images()) * threads;
    std::atomic<bool> good{true};
    pool.run(slices, [&](int slice, int thread) {
      const int first = Pool::first_task(images, slice, slices);
      const int last = Pool::first_task(images, slice + 1, slices);
      Runner runner(plan, kernels, workspace.area(thread), nullptr);
      if (!runner.run(input, first, last - first, logits, nullptr, *counter))
        good.store(false, std::memory_order_relaxed);
    });
    *finite = good.load();
    return images;
  }

  const int threads, steps;
  const Isa isa;
  const Kernels kernels;
  Plan plan;
  std::unique_ptr<ActivityCounter> counter;
  std::atomic<Runtime*> runtime{nullptr};
};

Engine::Engine(const Graph& graph, int threads) {
  if (threads < 1 || threads > 1024) fail("threads", "lie in [1, 1024]", threads);
  state_ = std::make_unique<State>(graph, threads);
}

Engine::~Engine() = default;

void Engine::run(const Input& given, float* logits, const Recording* recording) const {
  const Plan& plan = state_->plan;
  const Input input = complete(given, plan.input, state_->steps);
  check_pointer(logits, "logits");
  if (recording != nullptr) check(*recording, plan);
  Runtime& runtime = state_->current_runtime();
  const WorkspacePool::Lease lease(runtime.workspaces);
  Workspace& workspace = *lease;
  workspace.prepare(plan, input.steps, input.batch, input.sequence, state_->threads);
  const PoolLease pool(runtime.pool);
  int done = 0;
  bool finite = true;
  if (pool.get() != nullptr && recording == nullptr)
    done = state_->run_alone(input, workspace, *pool.get(), logits, &finite);
  Runner runner(plan, state_->kernels, workspace.area(0), pool.get());
  for (; done < input.batch && finite; done += workspace.images()) {
    const int count = std::min(workspace.images(), input.batch - done);
    finite = runner.run(input, done, count, logits, recording, *state_->counter);
  }
  if (!finite) throw std::invalid_argument("input holds a value that is not finite");
}

int Engine::threads() const { return state_->threads; }
const char* Engine::isa() const { return isa_name(state_->isa); }
int Engine::classes() const { return state_->plan.classes; }
Shape Engine::input_shape() const { return state_->plan.input; }

std::vector<StepInfo> Engine::steps() const {
  const Plan& plan = state_->plan;
  std::vector<StepInfo> steps;
  for (const Step& step : plan.steps) {
    StepInfo info{step.name, "", 0};
    std::visit([&](const auto& work) { describe(plan, work, &info); }, step.work);
    steps.push_back(std::move(info));
  }
  return steps;
}

std::vector<Layer> Engine::layers(int steps, bool sequence) const {
  if (steps < 1) fail("steps", "be at least 1", steps);
  const Plan& plan = state_->plan;
  std::vector<Layer> layers;
  for (const Step& step : plan.steps) {
    const auto* project = std::get_if<ProjectStep>(&step.work);
    if (project != nullptr && multiplies(*project))
      layers.push_back(
          {step.name, 0, project->macs() * (varies(plan, *project, sequence) ? steps : 1)});
    const int fired = fired_by(step);
    if (fired < 0) continue;
    const Neurons& n = plan.neurons[fired];
    layers.push_back({n.name, int64_t{n.rows} * n.columns, 0});
  }
  return layers;
}

}  // namespace stmixer::engine
