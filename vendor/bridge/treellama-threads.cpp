#include "treellama-impl.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

// Threads of a pool poll for a while after a pass, up to half a second, so that the next pass of a text starts at
// once. A pool for every context would thus take the cores from the passes of other contexts: of a draft model beside
// its target, of a second engine. So contexts with as many threads share one pool, and take turns.

struct treellama_threads {
    ggml_threadpool * pool;
    int32_t           n_threads;
    int32_t           n_users;
    std::mutex        busy;

    treellama_threads(ggml_threadpool * pool, int32_t n_threads) : pool(pool), n_threads(n_threads), n_users(0) {}
};

namespace {

struct registry {
    std::mutex                                            mutex;
    std::map<int32_t, std::unique_ptr<treellama_threads>> by_count;
};

// never destroyed: contexts may live until the process ends
registry * registered = new registry;

registry & all_threads() {
    return *registered;
}

int32_t thread_count(const llama_context * ctx) {
    auto * context = const_cast<llama_context *>(ctx);
    return std::max(llama_n_threads(context), llama_n_threads_batch(context));
}

}

treellama_threads * treellama_threads_attach(llama_context * ctx) {
    // a pool whose threads cannot all be started fails an assertion; those that could wait for work that never comes
    return treellama_guard((treellama_threads *) nullptr, [&]() -> treellama_threads * {
        const auto make = treellama_cpu_function<decltype(ggml_threadpool_new) *>("ggml_threadpool_new");
        if (!make) {
            return nullptr;
        }

        const int32_t n_threads = thread_count(ctx);

        auto & all = all_threads();
        std::lock_guard<std::mutex> lock(all.mutex);

        auto it = all.by_count.find(n_threads);
        if (it == all.by_count.end()) {
            ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
            auto threads = std::make_unique<treellama_threads>(make(&params), n_threads);
            it = all.by_count.emplace(n_threads, std::move(threads)).first;
        }

        auto & threads = it->second;
        threads->n_users++;
        llama_attach_threadpool(ctx, threads->pool, threads->pool);

        return threads.get();
    });
}

void treellama_threads_lock() {
    all_threads().mutex.lock();
}

void treellama_threads_unlock() {
    all_threads().mutex.unlock();
}

// The threads of the parent's pools do not run here, and whatever waits for them waits for ever. The memory is left as
// it is: inherited contexts point to it.
void treellama_threads_forget() {
    registered = new registry;
}

void treellama_threads_release(treellama_threads * threads) {
    auto & all = all_threads();
    std::lock_guard<std::mutex> lock(all.mutex);

    const auto it = all.by_count.find(threads->n_threads);
    if (it == all.by_count.end() || it->second.get() != threads) {
        return; // inherited by a fork
    }

    if (--threads->n_users == 0) {
        treellama_cpu_function<decltype(ggml_threadpool_free) *>("ggml_threadpool_free")(threads->pool);
        all.by_count.erase(threads->n_threads);
    }
}

static treellama_threads * threads_of(int32_t n_threads) {
    auto & all = all_threads();
    std::lock_guard<std::mutex> lock(all.mutex);

    const auto it = all.by_count.find(n_threads);
    return it == all.by_count.end() ? nullptr : it->second.get();
}

treellama_turn::treellama_turn(const llama_context * ctx) : treellama_turn(thread_count(ctx)) {}

treellama_turn::treellama_turn(int32_t n_threads) : pool(nullptr) {
    // whoever waits has a context that keeps it
    if (auto * threads = threads_of(n_threads)) {
        lock = std::unique_lock<std::mutex>(threads->busy);
        pool = threads->pool;
    }
}
