#include "fattn-ordered.h"

#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 takes the undefined vectors of its own headers for mistakes
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include "cut.h"
#include "tile.h"

#include "ggml-cpu.h"

#if defined(FATTN_ORDERED)

// run f(group, unit, chunk, next chunk) for all that threads share among them; a chunk < 0 means all of them, a next one
//   that there is none of the same unit
template <typename F>
static void for_each_item(const ggml_compute_params * params, const fattn_op & op, const fattn_cut & cut, F && f) {
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }

    ggml_barrier(params->threadpool);

    int64_t i    = params->ith;
    int64_t base = 0;

    for_each_group(op, [&](const fattn_group & group) {
        const int64_t n_chunks = cut.by_chunk ? group.n_chunks : 1;
        const int64_t n_items  = cut.n_units(op, group)*n_chunks;

        while (i < base + n_items) {
            // taken before this one is done, so that it can be fetched meanwhile
            const int64_t i_next = ggml_threadpool_chunk_add(params->threadpool, 1);

            const int64_t unit = (i - base)/n_chunks;
            const int64_t next = i_next - base - unit*n_chunks;

            f(group, unit, cut.by_chunk ? (i - base)%n_chunks : -1, cut.by_chunk && next < n_chunks ? next : -1);
            i = i_next;
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

    const fattn_cut cut(op, params->nth);

    const int64_t n_partial = 2 + op.DV;

    for_each_item(params, op, cut, [&](const fattn_group & group, int64_t unit, int64_t chunk, int64_t chunk_next) {
        fattn_tile tile(op, group, unit, cut.n_band, scratch);
        tile.load_queries();

        if (chunk < 0) {
            // from one chunk that has cells to the next: there can be wide gaps between positions
            for (int64_t i = 0; i < group.n_cells;) {
                const int64_t c = group.pos[i]/N_CHUNK - group.chunk_first;

                i = group.chunk_begin(c + 1);

                tile.chunk_next = i < group.n_cells ? i : -1;
                tile.add_chunk(c);
                tile.join();
            }
            tile.write();
            return;
        }

        tile.chunk_next = chunk_next < 0 ? -1 : group.chunk_begin(chunk_next);
        tile.add_chunk(chunk);

        tile.for_each_head([&](const fattn_head & h) {
            for (int64_t r = 0; r < tile.n_rows; ++r) {
                float * partial = partials + (tile.row_id(h, r)*op.n_slots + chunk)*n_partial;

                partial[0] = h.cur.M[r];
                partial[1] = h.cur.S[r];
                memcpy(partial + 2, h.cur.O + r*op.DV, op.DV*sizeof(float));
            }
        });
    });

    if (!cut.by_chunk) {
        return;
    }

    ggml_barrier(params->threadpool);

    for_each_item(params, op, fattn_cut(), [&](const fattn_group & group, int64_t unit, int64_t, int64_t) {
        fattn_tile tile(op, group, unit, 1, scratch);

        const fattn_head h = tile.head(0);

        for (int64_t r = 0; r < tile.n_rows; ++r) {
            for (int64_t c = 0; c < group.n_chunks; ++c) {
                const float * partial = partials + (tile.row_id(h, r)*op.n_slots + c)*n_partial;

                join_row(op.DV, h.total.M[r], h.total.S[r], h.total.O + r*op.DV, partial[0], partial[1], partial + 2);
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
