#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace stmixer::engine {

// The engine's own threads. A job is a number of tasks that the caller and the workers take one by
// one, so a core that is busy elsewhere delays a task and not a share of the whole. Waiting spins
// for at most 100 us, much less where somebody else keeps a core busy, and then sleeps: an idle
// engine costs nothing, and a machine with other work on it is not slowed by barriers.
class Pool {
 public:
  // The calling thread counts; threads - 1 are started, by the first run.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // One caller at a time: whoever does not get the pool computes on its own thread. Workers that
  // sleep are woken now, so that they are there when the first job is.
  bool try_acquire();
  void release() { busy_.store(false, std::memory_order_release); }

  // Calls task(index, thread) for every index in [0, tasks), thread in [0, threads), and returns
  // when all are done. task must not throw. Only while acquired.
  template <class Task>
  void run(int tasks, const Task& task) {
    run(
        tasks,
        [](const void* context, int index, int thread) {
          (*static_cast<const Task*>(context))(index, thread);
        },
        &task);
  }

 private:
  using Call = void (*)(const void* context, int index, int thread);

  void run(int tasks, Call call, const void* context);
  void start();
  void work(int thread);
  void wake_workers();
  bool take_task(int thread);

  const int threads_;
  std::vector<std::thread> workers_;
  std::atomic<bool> busy_{false};

  // The job. A worker reads call_ to tasks_ only after it has taken a task, and a job stays until
  // all its tasks are finished, so what it reads belongs to the task it took.
  Call call_ = nullptr;
  const void* context_ = nullptr;
  int tasks_ = 0;
  alignas(64) std::atomic<int> untaken_{0};
  alignas(64) std::atomic<int> unfinished_{0};

  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<int> spin_;  // ns
  unsigned calls_ = 0;     // under mutex_
  std::atomic<bool> caller_sleeps_{false};
  std::mutex mutex_;
  std::condition_variable wake_workers_, wake_caller_;
  bool stop_ = false;
};

}  // namespace stmixer::engine
