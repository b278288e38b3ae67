#pragma once
#include <atomic>

#include "common/pool.h"
#include "engine/activity.h"
#include "engine/kernels.h"
#include "engine/plan.h"
#include "engine/tables.h"
#include "engine/workspace.h"
#include "stmixer/engine.h"

namespace stmixer::engine {

// Carries out a plan for one slice of a batch, layer by layer over all its time steps and images.
class Runner {
 public:
  // pool: null computes on the calling thread.
  Runner(const Plan& plan, const Kernels& kernels, const Area& area, Pool* pool)
      : plan_(plan), kernels_(kernels), area_(area), pool_(pool) {}

  // Images [first, first + count) of the input, to logits[first]. False if a value of the input is
  // not finite.
  bool run(const Input& input, int first, int count, float* logits, const Recording* recording,
           const ActivityCounter& counter);

 private:
  bool do_step(const LoadStep& step);
  bool do_step(const ListStep& step);
  bool do_step(const SumStep& step);
  bool do_step(const ProjectStep& step);
  bool do_step(const FireStep& step);
  bool do_step(const RateStep& step);

  void record(const Step& step, const Recording& recording, const ActivityCounter& counter) const;
  // What one task of a projection computes: `pixels` outputs of one image, a tile of channels.
  struct Part {
    int tile, image, group, pixel, pixels;
    const void* next;  // weights that this thread will probably want after these
  };
  Part part_of(const ProjectStep& step, int task, int pixels_per_task, int blocks,
               int thread) const;
  const void* weights_after(const ProjectStep& step, int task, int blocks, int thread) const;
  // A static image is convolved once, its sums serve all time steps.
  int sum_steps(const ProjectStep& step, int steps) const {
    const bool once =
        step.kind == ProjectStep::Kind::dense && !varies(plan_, step, input_.sequence);
    return once ? 1 : steps;
  }

  void project(const ProjectStep& step, const Part& part, char* scratch);
  void fire(const FireStep& step, const Part& part) const;
  GatherTask gather_task(const ProjectStep& step, int image) const;
  DenseTask dense_task(const ProjectStep& step, int image) const;
  FinishTask finish_task(const Target& target, int image, int pixel, int pixels) const;

  // The same of an int8 network, run_integer.cpp.
  void project_integer(const ProjectStep& step, const Part& part, char* scratch);
  IntegerGatherTask integer_gather_task(const ProjectStep& step, int image) const;
  IntegerDenseTask integer_dense_task(const ProjectStep& step, int image) const;
  // `first`: the first channel of the tile, for what neurons and currents hold per channel.
  IntegerFinishTask integer_finish_task(const Target& target, const Part& part, int first,
                                        int channels, IntegerLif* lif) const;
  void head(const ProjectStep& step, const Part& part) const;
  void fire_integer(const FireStep& step, const Part& part) const;

  template <class T>
  void sum(const SumStep& step, const std::vector<T>& bias);
  void read_out(float* logits) const;

  template <class Task>
  void parallel(int tasks, const Task& task) {
    if (pool_ != nullptr) {
      pool_->run(tasks, task);
    } else {
      for (int i = 0; i < tasks; ++i) task(i, 0);
    }
  }
  int threads() const { return pool_ != nullptr ? pool_->threads() : 1; }

  template <class T = float>
  T* values(int index) const {
    return area_.buffer<T>(plan_.values[index].buffer);
  }
  int steps_of(const Values& v) const { return v.per_step ? input_.steps : 1; }

  const Plan& plan_;
  const Kernels kernels_;
  const Area area_;
  Pool* const pool_;
  Input input_;
  int first_ = 0, images_ = 0;
};

}  // namespace stmixer::engine
