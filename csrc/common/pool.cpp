#include "common/pool.h"

#include <chrono>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace stmixer {
namespace {

// Longer than a thread waits for the others at the end of most jobs: waking up costs more than
// that, up to 100 us where a virtual machine gave the core away meanwhile.
constexpr auto kSpin = std::chrono::microseconds(100);

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#else
  std::this_thread::yield();
#endif
}

// Spins until done() or the time is up; the clock is read every 16 rounds only.
template <class Done>
bool spin_until(const Done& done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

uint64_t share_of(uint32_t begin, uint32_t end) { return uint64_t{end} << 32 | begin; }
uint32_t begin_of(uint64_t share) { return static_cast<uint32_t>(share); }
uint32_t end_of(uint64_t share) { return static_cast<uint32_t>(share >> 32); }

}  // namespace

Pool::Pool(int threads) : threads_(threads), shares_(threads) {}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_workers_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool Pool::try_acquire() {
  if (threads_ == 1 || busy_.exchange(true, std::memory_order_acquire)) return false;
  if (workers_.empty()) start();
  leave_core();
  wake_workers();
  return true;
}

// A system may wake a worker on the core of the thread that wakes it and leave it there while
// another is idle, for longer than an inference takes.
void Pool::leave_core() {
#if defined(__linux__)
  const int core = sched_getcpu();
  if (core < 0 || core == callers_core_) return;
  cpu_set_t others;
  if (sched_getaffinity(0, sizeof others, &others) != 0) return;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) == 0) return;
  callers_core_ = core;
  for (std::thread& worker : workers_)
    pthread_setaffinity_np(worker.native_handle(), sizeof others, &others);
#endif
}

void Pool::wake_workers() {
  if (sleepers_.load() == 0) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++calls_;
  }
  wake_workers_.notify_all();
}

void Pool::start() {
  workers_.reserve(threads_ - 1);
  for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { work(i); });
}

bool Pool::Share::empty() const {
  const uint64_t share = untaken.load();
  return begin_of(share) >= end_of(share);
}

// A thread's own tasks, as far as nobody else takes them; returns how many it did.
int Pool::do_share(int thread) {
  Share& share = shares_[thread];
  int done = 0;
  uint64_t left = share.untaken.load(std::memory_order_acquire);
  while (begin_of(left) < end_of(left)) {
    if (!share.untaken.compare_exchange_weak(left, left + 1, std::memory_order_acq_rel,
                                             std::memory_order_acquire))
      continue;
    share.call(share.context, static_cast<int>(begin_of(left)), thread);
    ++done;
    left = share.untaken.load(std::memory_order_acquire);
  }
  return done;
}

bool Pool::steal_task(int thread) {
  for (int k = 1; k < threads_; ++k) {
    Share& share = shares_[(thread + k) % threads_];
    uint64_t left = share.untaken.load(std::memory_order_acquire);
    while (begin_of(left) < end_of(left)) {
      if (!share.untaken.compare_exchange_weak(left, left - (uint64_t{1} << 32),
                                               std::memory_order_acq_rel,
                                               std::memory_order_acquire))
        continue;
      share.call(share.context, static_cast<int>(end_of(left)) - 1, thread);
      return true;
    }
  }
  return false;
}

void Pool::report(int tasks) {
  finished_.fetch_add(tasks);
  if (!caller_sleeps_.load()) return;
  std::lock_guard<std::mutex> lock(mutex_);
  wake_caller_.notify_one();
}

void Pool::run(int tasks, Call call, const void* context) {
  if (tasks == 1) return call(context, 0, 0);  // not worth another thread's attention
  finished_.store(0, std::memory_order_relaxed);
  for (int i = 0; i < threads_; ++i) {
    shares_[i].call = call;
    shares_[i].context = context;
    // Sequentially consistent with sleepers_: no wake-up is lost.
    shares_[i].untaken.store(
        share_of(first_task(tasks, i, threads_), first_task(tasks, i + 1, threads_)));
  }
  wake_workers();
  int left = tasks - do_share(0);
  while (steal_task(0)) --left;
  const auto done = [&] { return finished_.load(std::memory_order_acquire) == left; };
  if (spin_until(done)) return;
  std::unique_lock<std::mutex> lock(mutex_);
  caller_sleeps_.store(true);
  wake_caller_.wait(lock, [&] { return finished_.load() == left; });
  caller_sleeps_.store(false);
}

void Pool::work(int thread) {
  const auto ready = [&] { return !shares_[thread].empty(); };
  for (;;) {
    const int done = do_share(thread);
    if (done > 0) report(done);
    while (steal_task(thread)) report(1);
    if (spin_until(ready)) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    const unsigned calls = calls_;
    wake_workers_.wait(lock, [&] { return stop_ || ready() || calls_ != calls; });
    sleepers_.fetch_sub(1);
    if (stop_) return;
  }
}

}  // namespace stmixer
