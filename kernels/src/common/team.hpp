// Parallel loops on the threads that torch already has.
#pragma once
#include <cstddef>
#include <functional>

namespace compactnets {

// Calls body(i) once for every i in [0, tasks), on at most `threads` threads; returns when all are
// done. Tasks are handed out one by one, so that a delayed thread costs one task and not its share;
// body must not throw and must not care which thread runs it.
void parallel_for(std::size_t tasks, int threads, const std::function<void(std::size_t)>& body);

// "openmp" if the OpenMP runtime of the process is used, "std::thread" if there is none.
const char* team_kind();

}  // namespace compactnets
