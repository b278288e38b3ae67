#pragma once
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/plan.h"

namespace stmixer::engine {

// Byte offsets of the buffers in one block of memory, so that those alive together do not overlap.
struct Layout {
  std::vector<size_t> offsets;
  size_t bytes = 0;
};

// Memory for a slice of a batch.
class Area {
 public:
  Area(char* memory, const Layout& layout, char* scratch, size_t scratch_bytes)
      : memory_(memory), layout_(layout), scratch_(scratch), scratch_bytes_(scratch_bytes) {}

  template <class T>
  T* buffer(int index) const {
    return reinterpret_cast<T*>(memory_ + layout_.offsets[index]);
  }
  char* scratch(int thread) const { return scratch_ + thread * scratch_bytes_; }

 private:
  char* memory_;
  const Layout& layout_;
  char* scratch_;
  size_t scratch_bytes_;
};

// Everything one run writes to.
class Workspace {
 public:
  // Makes room for this many steps and images; allocates only if the last call was another.
  void prepare(const Plan& plan, int steps, int batch, bool sequence, int threads);

  // Images of a slice at most: as many as keep what lies between two layers near the caches.
  int images() const { return images_; }

  // There is one for each thread if the batch has an image for each, else only the first, which
  // all threads may use together.
  Area area(int i) const {
    return {memory_.data() + i * area_bytes_, layout_, scratch_.data() + i * scratch_bytes_,
            scratch_bytes_};
  }

 private:
  int steps_ = 0, batch_ = 0, images_ = 0;
  bool sequence_ = false;
  Layout layout_;
  size_t area_bytes_ = 0, memory_bytes_ = 0, scratch_bytes_ = 0;
  Memory memory_, scratch_;
};

// A bounded number of workspaces: one per run in flight, and whoever comes when all are taken
// waits.
class WorkspacePool {
 public:
  explicit WorkspacePool(int limit) : limit_(limit) { idle_.reserve(limit); }

  // Returned to the pool when it goes out of scope.
  class Lease {
   public:
    Lease(WorkspacePool& pool) : pool_(pool), workspace_(pool.take()) {}
    ~Lease() { pool_.give_back(std::move(workspace_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Workspace& operator*() const { return *workspace_; }

   private:
    WorkspacePool& pool_;
    std::unique_ptr<Workspace> workspace_;
  };

 private:
  std::unique_ptr<Workspace> take();
  void give_back(std::unique_ptr<Workspace> workspace);

  std::mutex mutex_;
  std::condition_variable available_;
  std::vector<std::unique_ptr<Workspace>> idle_;
  int made_ = 0;
  const int limit_;
};

// Bytes of sums that a task of a projection keeps per thread: they pass through the first-level
// cache once per chunk of weights.
constexpr size_t kSumsBytes = size_t{32} << 10;

// How the steps of a run are cut into tasks.
int pixels_per_task(const ProjectStep& step, int sum_steps, int images, int threads);
int rows_per_task(const ListLayout& layout);

}  // namespace stmixer::engine
