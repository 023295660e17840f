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
//   that there is none of the same unit. chunks count from the group's first
template <typename F>
static void for_each_item(const ggml_compute_params * params, const fattn_op & op, const fattn_cut & cut, F && f) {
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }

    ggml_barrier(params->threadpool);

    int64_t i    = params->ith;
    int64_t base = 0;

    cut.for_each(op, [&](const fattn_group & group) {
        const bool    is_whole = cut.is_whole(op, group);
        const int64_t n_chunks = is_whole ? 1 : group.n_chunks;
        const int64_t n_units  = cut.n_units(op, group);
        const int64_t n_items  = n_units*n_chunks;

        // many rows: a chunk is still in the cache for the next tile
        const bool tiles_first = !is_whole && cut.by_team && group.n_tiles > 1;

        while (i < base + n_items) {
            // taken before this one is done, so that it can be fetched meanwhile
            const int64_t i_next = ggml_threadpool_chunk_add(params->threadpool, 1);

            if (tiles_first) {
                f(group, (i - base)%n_units, (i - base)/n_units, -1);
            } else {
                const int64_t unit = (i - base)/n_chunks;
                const int64_t next = i_next - base - unit*n_chunks;

                f(group, unit, is_whole ? -1 : (i - base)%n_chunks, !is_whole && next < n_chunks ? next : -1);
            }
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

// from one chunk that has cells to the next: there can be wide gaps between positions
static void add_all(fattn_tile & tile) {
    const fattn_group & group = tile.group;

    const int64_t end = group.chunk_first + group.n_chunks;

    for (int64_t c = group.next_chunk(group.chunk_first); c < end;) {
        const int64_t next = group.next_chunk(c + 1);

        tile.chunk_next = next < end ? group.cells_from(next) : fattn_cells();
        tile.add_chunk(c);
        tile.join();
        c = next;
    }
}

// the results of a row for one chunk
static float * partial_of(const fattn_tile & tile, const fattn_head & h, int64_t r, int64_t chunk, float * partials) {
    const fattn_op & op = tile.op;

    const int64_t slot = chunk - op.order_row(tile.group.i3)[FATTN_ORDER_HEAD + tile.token(r)];

    return partials + (tile.row_id(h, r)*op.n_slots + slot)*(2 + op.DV);
}

static void keep(const fattn_tile & tile, int64_t chunk, float * partials, fattn_sums fattn_head::* sums = &fattn_head::cur) {
    tile.for_each_head([&](const fattn_head & h) {
        for (int64_t r = 0; r < tile.n_rows; ++r) {
            const fattn_sums & from = h.*sums;

            float * partial = partial_of(tile, h, r, chunk, partials);

            partial[0] = from.M[r];
            partial[1] = from.S[r];
            memcpy(partial + 2, from.O + r*tile.op.DV, tile.op.DV*sizeof(float));
        }
    });
}

// a chunk without weights whose sum is none says that a later one holds the sums of both
static bool is_in_later(const float * partial) {
    return partial[0] == -INFINITY && partial[1] != 0.0f;
}

// all chunks of a group, joined, stand in the last
static void keep_joined(const fattn_tile & tile, float * partials) {
    const int64_t last = tile.group.chunk_first + tile.group.n_chunks - 1;

    keep(tile, last, partials, &fattn_head::total);

    tile.for_each_head([&](const fattn_head & h) {
        for (int64_t r = 0; r < tile.n_rows; ++r) {
            for (int64_t c = tile.group.chunk_first; c < last; ++c) {
                float * partial = partial_of(tile, h, r, c, partials);

                partial[0] = -INFINITY;
                partial[1] = 1.0f;
            }
        }
    });
}

// the results of all chunks of one head, in order
static void join_all(fattn_tile & tile, float * partials) {
    const fattn_group & group = tile.group;
    const fattn_head    h     = tile.head(0);

    const int64_t end = group.chunk_first + group.n_chunks;

    bool is_joined = false; // the next chunk has those before it in its sums

    for (int64_t c = group.next_chunk(group.chunk_first); c < end; c = group.next_chunk(c + 1)) {
        // of one row as of all
        if (is_in_later(partial_of(tile, h, 0, c, partials))) {
            is_joined = true;
            continue;
        }
        for (int64_t r = 0; r < tile.n_rows; ++r) {
            const float * partial = partial_of(tile, h, r, c, partials);

            float * O = h.total.O + r*tile.op.DV;

            if (is_joined) {
                h.total.M[r] = partial[0];
                h.total.S[r] = partial[1];
                memcpy(O, partial + 2, tile.op.DV*sizeof(float));
            } else {
                join_row(tile.op.DV, h.total.M[r], h.total.S[r], O, partial[0], partial[1], partial + 2);
            }
        }
        is_joined = false;
    }
}

void ggml_compute_forward_flash_attn_ext_ordered(const ggml_compute_params * params, ggml_tensor * dst) {
    const fattn_op op(dst);

    char  * scratch  = (char *) params->wdata + params->ith*GGML_PAD(op.scratch, SCRATCH_ALIGN);
    float * partials = (float *) ((char *) params->wdata + params->nth*GGML_PAD(op.scratch, SCRATCH_ALIGN));

    const fattn_cut cut(op, params->nth);

    for_each_item(params, op, cut, [&](const fattn_group & group, int64_t unit, int64_t chunk, int64_t chunk_next) {
        fattn_tile tile(op, group, unit, cut.band(op, group), scratch);
        tile.load_queries();

        if (chunk < 0) {
            add_all(tile);
            if (cut.by_chunk) {
                keep_joined(tile, partials);
            } else {
                tile.write();
            }
            return;
        }

        if (chunk_next >= 0) {
            tile.chunk_next = group.cells_from(group.chunk_first + chunk_next);
        }
        // what stands there is another team's
        if (group.next_chunk(group.chunk_first + chunk) != group.chunk_first + chunk) {
            return;
        }
        tile.add_chunk(group.chunk_first + chunk);
        keep(tile, group.chunk_first + chunk, partials);
    });

    if (!cut.by_chunk) {
        return;
    }

    ggml_barrier(params->threadpool);

    for_each_item(params, op, fattn_cut(), [&](const fattn_group & group, int64_t unit, int64_t, int64_t) {
        fattn_tile tile(op, group, unit, 1, scratch);

        join_all(tile, partials);
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
