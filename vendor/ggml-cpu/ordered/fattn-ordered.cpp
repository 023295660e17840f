#include "fattn-ordered.h"

#include "tile.h"

#include "ggml-cpu.h"

#if defined(FATTN_ORDERED)

// more than this for the results of chunks is not worth the balance between threads
static constexpr size_t PARTIALS_MAX = 16*1024*1024;

// run f(group, unit, chunk) for all that threads share among them, chunk < 0 meaning all of them
template <typename F>
static void for_each_item(const ggml_compute_params * params, const fattn_op & op, bool by_chunk, F && f) {
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }

    ggml_barrier(params->threadpool);

    int64_t i    = params->ith;
    int64_t base = 0;

    for_each_group(op, [&](const fattn_group & group) {
        const int64_t n_chunks = by_chunk ? group.n_chunks : 1;
        const int64_t n_items  = group.n_units(op)*n_chunks;

        while (i < base + n_items) {
            f(group, (i - base)/n_chunks, by_chunk ? (i - base)%n_chunks : -1);
            i = ggml_threadpool_chunk_add(params->threadpool, 1);
        }
        base += n_items;
    });
}

bool ggml_fattn_ordered_supported(const ggml_tensor * dst) {
    if (dst->op != GGML_OP_FLASH_ATTN_EXT || !dst->src[5]) {
        return false;
    }

    const ggml_tensor * q    = dst->src[0];
    const ggml_tensor * k    = dst->src[1];
    const ggml_tensor * v    = dst->src[2];
    const ggml_tensor * mask = dst->src[3];

    const auto is_readable = [](const ggml_tensor * t) {
        return t->nb[0] == ggml_type_size(t->type) && (t->type == GGML_TYPE_F32 || ggml_get_type_traits(t->type)->to_float);
    };

    return mask && mask->ne[2] == 1 && q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) &&
        is_readable(k) && is_readable(v) &&
        q->ne[2] % k->ne[2] == 0 && k->ne[2] == v->ne[2] && q->ne[3] == k->ne[3] && q->ne[3] == v->ne[3];
}

size_t ggml_fattn_ordered_work_size(const ggml_tensor * dst, int n_threads) {
    const fattn_op op(dst);

    return n_threads*GGML_PAD(op.scratch, SCRATCH_ALIGN) + (op.partials <= PARTIALS_MAX ? op.partials : 0) + SCRATCH_ALIGN;
}

void ggml_compute_forward_flash_attn_ext_ordered(const ggml_compute_params * params, ggml_tensor * dst) {
    const fattn_op op(dst);

    char  * scratch  = (char *) params->wdata + params->ith*GGML_PAD(op.scratch, SCRATCH_ALIGN);
    float * partials = (float *) ((char *) params->wdata + params->nth*GGML_PAD(op.scratch, SCRATCH_ALIGN));

    // few tiles leave threads without work: then their chunks are shared out as well
    int64_t n_units  = 0;
    bool    by_chunk = params->nth > 1 && op.partials <= PARTIALS_MAX;

    for_each_group(op, [&](const fattn_group & group) {
        n_units  += group.n_units(op);
        by_chunk &= group.n_chunks <= op.n_slots;
    });
    by_chunk &= n_units < 4*params->nth;

    const int64_t n_partial = 2 + op.DV;

    for_each_item(params, op, by_chunk, [&](const fattn_group & group, int64_t unit, int64_t chunk) {
        fattn_tile tile(op, group, unit, scratch);
        tile.load_queries();

        if (chunk < 0) {
            // from one chunk that has cells to the next: there can be wide gaps between positions
            for (int64_t i = 0; i < group.n_cells;) {
                const int64_t c = group.pos[i]/N_CHUNK - group.chunk_first;
                tile.add_chunk(c);
                tile.join();
                i = group.chunk_begin(c + 1);
            }
            tile.write();
            return;
        }

        tile.add_chunk(chunk);

        for (int64_t r = 0; r < tile.n_rows; ++r) {
            float * partial = partials + (tile.row_id(r)*op.n_slots + chunk)*n_partial;

            partial[0] = tile.cur.M[r];
            partial[1] = tile.cur.S[r];
            memcpy(partial + 2, tile.cur.O + r*op.DV, op.DV*sizeof(float));
        }
    });

    if (!by_chunk) {
        return;
    }

    ggml_barrier(params->threadpool);

    for_each_item(params, op, false, [&](const fattn_group & group, int64_t unit, int64_t) {
        fattn_tile tile(op, group, unit, scratch);

        for (int64_t r = 0; r < tile.n_rows; ++r) {
            for (int64_t c = 0; c < group.n_chunks; ++c) {
                const float * partial = partials + (tile.row_id(r)*op.n_slots + c)*n_partial;

                join_row(op.DV, tile.total.M[r], tile.total.S[r], tile.total.O + r*op.DV, partial[0], partial[1], partial + 2);
            }
        }
        tile.write();
    });
}

#else // FATTN_ORDERED

bool ggml_fattn_ordered_supported(const ggml_tensor * dst) {
    GGML_UNUSED(dst);
    return false;
}

size_t ggml_fattn_ordered_work_size(const ggml_tensor * dst, int n_threads) {
    GGML_UNUSED(dst);
    GGML_UNUSED(n_threads);
    return 0;
}

void ggml_compute_forward_flash_attn_ext_ordered(const ggml_compute_params * params, ggml_tensor * dst) {
    GGML_UNUSED(params);
    GGML_UNUSED(dst);
    GGML_ABORT("not supported");
}

#endif