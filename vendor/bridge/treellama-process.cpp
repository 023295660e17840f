// what a fork and the end of the process mean for native work

#include "treellama-impl.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#ifndef _WIN32
#    include <pthread.h>
#endif

// ggml-threading.h, which is ggml's own
extern "C" {
    GGML_API void ggml_critical_section_start(void);
    GGML_API void ggml_critical_section_end(void);
}

static std::atomic<int32_t> n_calls { 0 };

treellama_call::treellama_call() {
    n_calls.fetch_add(1, std::memory_order_relaxed);
}

treellama_call::~treellama_call() {
    n_calls.fetch_sub(1, std::memory_order_release);
}

#ifndef _WIN32

// Static objects of the libraries are destroyed after this handler, which is registered later than they are made.
// A thread that the program has left behind may still be in a call that uses them. Python has told passes to end by
// now; other calls (a text is tokenised, a file is read) are waited for, but not for ever.
static void wait_for_calls() {
    constexpr auto pause  = std::chrono::milliseconds(1);
    constexpr int  n_most = 30*1000;

    for (int i = 0; i < n_most && n_calls.load(std::memory_order_acquire) > 0; ++i) {
        std::this_thread::sleep_for(pause);
    }
}

// A child has the thread that forked and no other: what the others held stays locked there, so this thread holds it
static void before_fork() {
    treellama_threads_lock();
    ggml_critical_section_start();
    treellama_log_lock();
}

static void after_fork() {
    treellama_log_unlock();
    ggml_critical_section_end();
    treellama_threads_unlock();
}

static void after_fork_in_child() {
    after_fork();
    treellama_threads_forget();
    n_calls = 0;
}

#endif

void treellama_process_start(void) {
#ifndef _WIN32 // which ends all other threads before it runs such handlers, and has no fork
    static const bool once = [] {
        std::atexit(wait_for_calls);
        pthread_atfork(before_fork, after_fork, after_fork_in_child);
        return true;
    }();
    (void) once;
#endif
}
