#pragma once

// what the files of the bridge share

#include "treellama.h"

#include "ggml-backend.h"

#include <exception>
#include <mutex>
#include <string>

class llama_kv_cache;
struct llama_model;

void treellama_set_error(const std::string & message);

// a function that the CPU backend has beyond the common ones; NULL if this build has no CPU backend
template <typename F>
F treellama_cpu_function(const char * name) {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    return device ? (F) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), name) : nullptr;
}

// false if a device besides the CPU takes part in a context's passes
bool treellama_is_on_host(const llama_context * ctx);

// whether each device can turn its part of a cache's keys to other positions
bool treellama_can_turn_keys(const llama_model & model, bool offload, enum ggml_type type_k);

// throws std::runtime_error if this build has none
ggml_backend_t treellama_cpu_backend();

// where a model's weights would be: the first of a device's own layouts that can take part in the op, or plain memory
ggml_backend_buffer_type_t treellama_weight_buffer_type(ggml_backend_dev_t device, const ggml_tensor * op, bool packed);

// what is wrong with a model that was loaded, as std::runtime_error
void treellama_check_loaded(const llama_model & model);

// architectures of encoders without a decoder
bool treellama_is_encoder_arch(const llama_model & model);

// give back the pages of a mapped file whose tensors were copied into buffers of their own
void treellama_drop_copied(const llama_model & model);

// the cache of a context (the sliding-window one if swa); NULL if its memory has none
llama_kv_cache * treellama_find_cache(const llama_context * ctx, bool swa);

// let all caches of a context have the same trees; ctx may be NULL
void treellama_share_trees(llama_context * ctx);

// let the caches of a new context stand in huge pages; ctx may be NULL
void treellama_use_huge_pages(llama_context * ctx);

// false, and a line in the log, if a sequence of the batch has pending nodes
bool treellama_is_text(const llama_context * ctx, const llama_batch & batch);

// treellama_tree_commit; in_place: no cell moves, as on a device
int32_t treellama_commit(llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path, bool in_place);

// llama_decode, or -1 if the model has no such positions
int32_t treellama_decode_checked(llama_context * ctx, const llama_batch & batch);

// while one lives, nobody else computes on the threads of this context, or of all contexts with as many
struct treellama_turn {
    treellama_turn(const llama_context * ctx);
    treellama_turn(int32_t n_threads);

    // the threads themselves; NULL if no context has as many
    struct ggml_threadpool * pool;

private:
    std::unique_lock<std::mutex> lock;
};

// for a fork: the locks of all threads' pools and of the log, and a child's start without the parent's pools
void treellama_threads_lock();
void treellama_threads_unlock();
void treellama_threads_forget();
void treellama_log_lock();
void treellama_log_unlock();

// while one lives, this thread is in a call: the end of the process waits for it
struct treellama_call {
    treellama_call();
    ~treellama_call();
};

// while one lives, an assertion of llama.cpp that fails on this thread throws instead of ending the process
struct treellama_assertions_throw {
    treellama_assertions_throw();
    ~treellama_assertions_throw();
};

// while one lives, no abort ends what this thread computes
struct treellama_no_abort {
    treellama_no_abort();
    ~treellama_no_abort();
};

// run f; a C++ exception becomes `failed`, and its message this thread's last error
template <typename F, typename R>
R treellama_catch(R failed, F && f) {
    treellama_call call;
    treellama_set_error({});

    try {
        return f();
    } catch (const std::exception & err) {
        treellama_set_error(err.what());
    } catch (...) {
        treellama_set_error("unknown C++ exception");
    }

    return failed;
}

// as treellama_catch, for failed assertions too. Not for what computes a graph: an exception that leaves this
// thread's part of a pass leaves the other threads waiting for it
template <typename F, typename R>
R treellama_guard(R failed, F && f) {
    return treellama_catch(failed, [&]() -> R {
        treellama_assertions_throw scope;
        return f();
    });
}
