#include "common/team.hpp"

#include <atomic>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

// Why not a pool of our own: torch's OpenMP workers keep spinning for some milliseconds after each
// parallel region. A second pool beside them would fight for the same cores in every network that
// alternates torch's layers and ours. Linking -fopenmp would not help either: it may bring a second
// copy of the runtime, with a second pool. So the entry point of the runtime that torch has already
// loaded is looked up in the process, and its one team does our work as well.
namespace compactnets {
namespace {

struct Loop {
  const std::function<void(std::size_t)>& body;
  std::size_t tasks;
  std::atomic<std::size_t> next{0};

  void work() {
    for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(i);
  }
};

void work_on(void* loop) { static_cast<Loop*>(loop)->work(); }

// GNU's runtime defines it, LLVM's and Intel's carry it for compatibility. Runs fn(data) on each
// thread of a team (which may be smaller than asked for) and waits for all of them.
using GompParallel = void (*)(void (*fn)(void*), void* data, unsigned threads, unsigned flags);

GompParallel find_runtime() {
#if defined(__unix__) || defined(__APPLE__)
  return reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
#else
  return nullptr;
#endif
}

GompParallel runtime() {
  static const GompParallel found = find_runtime();
  return found;
}

void run_on_new_threads(Loop& loop, int threads) {
  std::vector<std::jthread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back([&loop] { loop.work(); });
  loop.work();
}

}  // namespace

void parallel_for(std::size_t tasks, int threads, const std::function<void(std::size_t)>& body) {
  if (threads > 1 && static_cast<std::size_t>(threads) > tasks) threads = static_cast<int>(tasks);
  if (threads <= 1) {
    for (std::size_t i = 0; i < tasks; ++i) body(i);
    return;
  }
  Loop loop{body, tasks};
  if (GompParallel parallel = runtime())
    parallel(work_on, &loop, static_cast<unsigned>(threads), 0);
  else
    run_on_new_threads(loop, threads);
}

const char* team_kind() { return runtime() ? "openmp" : "std::thread"; }

}  // namespace compactnets
