#pragma once
#include <atomic>

#include "engine/activity.h"
#include "engine/kernels.h"
#include "engine/plan.h"
#include "engine/pool.h"
#include "engine/workspace.h"
#include "stmixer/engine.h"

namespace stmixer::engine {

// Carries out a plan for one slice of a batch, layer by layer over all its time steps and images.
class Runner {
 public:
  // pool: null computes on the calling thread.
  Runner(const Plan& plan, const ListKernels& lists, const ProjectKernels& project,
         const Workspace& workspace, Pool* pool)
      : plan_(plan),
        list_kernels_(lists),
        project_kernels_(project),
        workspace_(workspace),
        pool_(pool) {}

  // Images [first, first + count) of the input, to logits[first]. False if a value of the input is
  // not finite. ActivityCounter may be null.
  bool run(const Input& input, int first, int count, float* logits, const Recording* recording,
           const ActivityCounter* counter);

 private:
  bool do_step(const LoadStep& step);
  bool do_step(const ListStep& step);
  bool do_step(const SumStep& step);
  bool do_step(const ProjectStep& step);
  bool do_step(const FireStep& step);

  void record(const Step& step, const Recording& recording, const ActivityCounter* counter) const;
  void project_task(const ProjectStep& step, int task, int pixels_per_task, int blocks, int thread);
  const float* weights_after(const ProjectStep& step, int index, int blocks) const;
  GatherTask gather_task(const ProjectStep& step, int image) const;
  DenseTask dense_task(const ProjectStep& step, int image) const;
  FinishTask finish_task(const Target& target, int image, int pixel, int pixels) const;
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

  float* values(int index) const { return workspace_.buffer<float>(plan_.values[index].buffer); }
  int steps_of(const Values& v) const { return v.per_step ? input_.steps : 1; }

  const Plan& plan_;
  const ListKernels& list_kernels_;
  const ProjectKernels& project_kernels_;
  const Workspace& workspace_;
  Pool* const pool_;
  Input input_;
  int first_ = 0, images_ = 0;
};

}  // namespace stmixer::engine
