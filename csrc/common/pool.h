#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace stmixer {

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

  // A thread's part of a job, on a line of its own: waiting for one and taking from it disturbs
  // nobody, and its first task comes with all that is needed to start. Tasks that nobody has taken
  // are [begin, end) in one word; their thread takes the first, others the last.
  struct alignas(64) Share {
    std::atomic<uint64_t> untaken{0};
    // Read only by who has taken a task, and a job stays until all of its tasks are finished.
    Call call = nullptr;
    const void* context = nullptr;

    bool empty() const;
  };

  void run(int tasks, Call call, const void* context);
  void start();
  void work(int thread);
  void wake_workers();
  void leave_core();
  int do_share(int thread);
  bool steal_task(int thread);
  void report(int tasks);

  const int threads_;
  std::vector<std::thread> workers_;
  int callers_core_ = -1;  // where no worker runs
  std::atomic<bool> busy_{false};

  std::vector<Share> shares_;
  alignas(64) std::atomic<int> finished_{0};  // tasks of the job, by workers

  alignas(64) std::atomic<int> sleepers_{0};
  unsigned calls_ = 0;  // under mutex_
  std::atomic<bool> caller_sleeps_{false};
  std::mutex mutex_;
  std::condition_variable wake_workers_, wake_caller_;
  bool stop_ = false;
};

}  // namespace stmixer
