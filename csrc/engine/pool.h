#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace stmixer::engine {

// The engine's own threads. Each has a share of a job's tasks, the same part of every job, so that
// what it wrote in one it mostly finds in its own cache in the next. Whoever is done takes tasks
// from the others, so a core that is busy elsewhere delays a task and not a share of the whole.
// No worker runs on the caller's core. Waiting spins for at most 100 us and then sleeps: an idle
// engine costs nothing, and a machine with other work on it is not slowed by barriers.
class Pool {
 public:
  // The calling thread counts; threads - 1 are started, by the first run.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Where the share of a thread begins among so many tasks; that of the next is its end.
  static int first_task(int tasks, int thread, int threads) {
    return static_cast<int>((int64_t{tasks} * thread + threads - 1) / threads);
  }

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

  // Tasks of one thread that nobody has taken, [begin, end) in one word. It takes the first,
  // others the last.
  struct alignas(64) Share {
    std::atomic<uint64_t> untaken{0};
  };

  void run(int tasks, Call call, const void* context);
  void run_task(int index, int thread);
  void start();
  void work(int thread);
  void wake_workers();
  void leave_core();
  bool take_task(int thread);
  bool any_untaken() const;

  const int threads_;
  std::vector<std::thread> workers_;
  int callers_core_ = -1;  // where no worker runs
  std::atomic<bool> busy_{false};

  // The job. A worker reads call_ and context_ only after it has taken a task, and a job stays
  // until all its tasks are finished, so what it reads belongs to the task it took.
  Call call_ = nullptr;
  const void* context_ = nullptr;
  std::vector<Share> shares_;
  alignas(64) std::atomic<int> unfinished_{0};

  alignas(64) std::atomic<int> sleepers_{0};
  unsigned calls_ = 0;  // under mutex_
  std::atomic<bool> caller_sleeps_{false};
  std::mutex mutex_;
  std::condition_variable wake_workers_, wake_caller_;
  bool stop_ = false;
};

}  // namespace stmixer::engine
