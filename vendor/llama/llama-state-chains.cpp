#include "llama-state-chains.h"

#include "llama-context.h"
#include "llama-kept-graphs.h"
#include "llama-kv-cache-trees.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-recurrent.h"

#include <algorithm>
#include <stdexcept>

using row_moves = std::vector<std::pair<int64_t, int64_t>>; // from, to

// also where an indexer stands beside the states
static llama_memory_recurrent * states_of(const llama_memory_i * mem) {
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid *>(mem)) {
        return hybrid->get_mem_recr();
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_iswa *>(mem)) {
        return hybrid->get_mem_recr();
    }
    return const_cast<llama_memory_recurrent *>(dynamic_cast<const llama_memory_recurrent *>(mem));
}

static std::vector<ggml_tensor *> tensors_of(const llama_memory_recurrent & mem) {
    std::vector<ggml_tensor *> res;
    for (const auto * layers : { &mem.r_l, &mem.s_l, &mem.p_l }) {
        for (auto * t : *layers) {
            if (t && ggml_nelements(t) > 0) {
                res.push_back(t);
            }
        }
    }
    return res;
}

uint32_t llama_state_chains::n_max(const llama_memory_i * mem) {
    const auto * recr = states_of(mem);
    if (!recr) {
        return 0;
    }

    const auto tensors = tensors_of(*recr);
    return tensors.empty() ? 0 : tensors[0]->ne[1]/recr->size - 1;
}

size_t llama_state_chains::n_bytes_of_state(const llama_memory_i * mem) {
    const auto * recr = states_of(mem);

    size_t res = 0;
    for (const auto * t : recr ? tensors_of(*recr) : std::vector<ggml_tensor *>()) {
        res += t->nb[1];
    }
    return res;
}

// graphs see n_rs_seq + 1 planes, and batches are split so that the last n_rs_seq + 1 tokens of a text stay together
static void write_planes(llama_context & lctx, llama_memory_recurrent & mem, uint32_t n_rs_seq) {
    llama_kept_graphs::keep_states(lctx, n_rs_seq);
    mem.n_rs_seq = n_rs_seq;
}

void llama_state_chains::init(llama_context & lctx) {
    if (n_max(lctx.get_memory()) > 0) {
        write_planes(lctx, *states_of(lctx.get_memory()), 0);
    }
}

// the same on the host and on a device, without a copy between them
static void move_rows(llama_context & lctx, const llama_memory_recurrent & mem, const row_moves & moves) {
    const auto tensors = tensors_of(mem);

    const size_t n_nodes = tensors.size()*moves.size();

    ggml_init_params params = {
        /*.mem_size   =*/ 4*n_nodes*ggml_tensor_overhead() + ggml_graph_overhead_custom(4*n_nodes + 1, false),
        /*.mem_buffer =*/ nullptr,
        /*.no_alloc   =*/ true,
    };

    auto * sched = lctx.get_sched();

    llama_synchronize(&lctx);

    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); ++i) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(sched, i);

        ggml_context_ptr ctx { ggml_init(params) };

        ggml_cgraph * gf = ggml_new_graph_custom(ctx.get(), 4*n_nodes + 1, false);

        const auto row = [&](ggml_tensor * t, int64_t j) {
            ggml_tensor * view = ggml_view_1d(ctx.get(), t, t->ne[0], j*t->nb[1]);
            ggml_backend_view_init(view);
            return view;
        };

        for (auto * t : tensors) {
            if (llama_backend_of(sched, t) != backend) {
                continue;
            }
            for (const auto & [from, to] : moves) {
                ggml_tensor * node = ggml_cpy(ctx.get(), row(t, from), row(t, to));
                ggml_backend_view_init(node);
                ggml_build_forward_expand(gf, node);
            }
        }

        if (ggml_graph_n_nodes(gf) > 0 && ggml_backend_graph_compute(backend, gf) != GGML_STATUS_SUCCESS) {
            throw std::runtime_error("failed to move a recurrent state");
        }
    }
}

void llama_state_chains::roll_back(
        llama_context & lctx, llama_seq_id seq_id, llama_pos n_past, uint32_t n_tokens, uint32_t n_keep) {
    auto * all = lctx.get_memory();
    auto & mem = *states_of(all);

    const int32_t tail = mem.cells[seq_id].tail;
    if (tail >= 0 && n_past + n_keep > 0) {
        const int64_t plane = n_keep > 0 ? n_tokens - n_keep : n_max(all);

        move_rows(lctx, mem, {{ plane*mem.size + (n_keep > 0 ? tail : seq_id), tail }});

        mem.cells[tail].src = tail;
        mem.cells[tail].pos = n_past + n_keep - 1;
    }
    mem.set_rs_idx(seq_id, 0); // a pass that failed may have asked for llama.cpp's rollback

    all->seq_rm(seq_id, n_past + n_keep, -1);
}

void llama_state_chains::follow(llama_context & lctx) {
    const auto & mem = *states_of(lctx.get_memory());

    // those of the batch stand first, and have been where the others go
    row_moves moves;
    for (int64_t i = (int64_t) mem.head + mem.n - 1; i >= mem.head; --i) {
        const int64_t from = mem.cells[i].src0;
        for (uint32_t s = 1; from != i && s < n_max(lctx.get_memory()); ++s) {
            moves.push_back({ from + s*mem.size, i + s*mem.size });
        }
    }

    if (!moves.empty()) {
        move_rows(lctx, mem, moves);
    }
}

void llama_state_chains::pass::begin(llama_context & lctx, const llama_batch & batch) {
    auto & mem = *states_of(lctx.get_memory());

    const uint32_t plane = n_max(lctx.get_memory());

    row_moves moves;
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        const llama_seq_id seq_id = batch.seq_id[i][0];

        if (std::any_of(n_past.begin(), n_past.end(), [&](const auto & one) { return one.first == seq_id; })) {
            continue;
        }
        n_past.push_back({ seq_id, llama_memory_seq_pos_max(lctx.get_memory(), seq_id) + 1 });

        const int32_t tail = mem.cells[seq_id].tail;
        if (tail >= 0 && mem.cells[tail].src >= 0) {
            moves.push_back({ mem.cells[tail].src, (int64_t) plane*mem.size + seq_id });
        }
    }

    move_rows(lctx, mem, moves);
    write_planes(lctx, mem, plane - 1);
}

void llama_state_chains::pass::end(llama_context & lctx, bool success) {
    write_planes(lctx, *states_of(lctx.get_memory()), 0);

    for (const auto & [seq_id, n] : n_past) {
        if (!success) {
            roll_back(lctx, seq_id, n, 0, 0);
        }
    }
}
