// the devices that a model computes on besides the CPU, and what they can do with a KV cache

#include "treellama-impl.h"

#include "llama-context.h"
#include "llama-model.h"

#include "ggml-cpp.h"

#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>

static bool is_host(ggml_backend_dev_t device) {
    const auto type = ggml_backend_dev_type(device);
    return type == GGML_BACKEND_DEVICE_TYPE_CPU || type == GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

bool treellama_is_on_host(const llama_context * ctx) {
    auto * sched = ctx->get_sched();

    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); ++i) {
        if (!is_host(ggml_backend_get_device(ggml_backend_sched_get_backend(sched, i)))) {
            return false;
        }
    }
    return true;
}

int32_t treellama_model_devices(const llama_model * model, ggml_backend_dev_t * devices, int32_t n_max) {
    for (int32_t i = 0; i < n_max && i < (int32_t) model->devices.size(); ++i) {
        devices[i] = model->devices[i].dev;
    }
    return (int32_t) model->devices.size();
}

//
// sizes
//

static ggml_backend_dev_t device_of_layer(const llama_model & model, bool offload, uint32_t il) {
    return offload ? model.dev_layer(il) : ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

static bool has_kv(const llama_model & model, uint32_t il) {
    return model.hparams.has_kv(il) && !model.hparams.is_recr(il);
}

// a row of quantised values is whole blocks
static int64_t row_bytes(ggml_type type, int64_t n_values) {
    const int64_t n_block = ggml_blck_size(type);
    return (int64_t) ggml_row_size(type, (n_values + n_block - 1)/n_block*n_block);
}

int64_t treellama_kv_bytes(
        const llama_model * model, ggml_backend_dev_t device, bool offload, uint32_t n_ctx, ggml_type type_k, ggml_type type_v) {
    const auto & hparams = model->hparams;

    int64_t n_bytes = 0;
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (has_kv(*model, il) && (!device || device_of_layer(*model, offload, il) == device)) {
            n_bytes += row_bytes(type_k, hparams.n_embd_k_gqa(il)) + row_bytes(type_v, hparams.n_embd_v_gqa(il));
        }
    }

    return n_bytes*n_ctx;
}

//
// ops: what runs in a cache's own buffer must be known to its backend, which ends the process otherwise
//

// whether a device can run an op; `make` builds it in a context without data
static bool can_run(ggml_backend_dev_t device, const std::function<ggml_tensor * (ggml_context *)> & make) {
    ggml_init_params params = { 16*ggml_tensor_overhead(), nullptr, true };
    ggml_context_ptr ctx { ggml_init(params) };

    return ggml_backend_dev_supports_op(device, make(ctx.get()));
}

static bool can_write_rows(ggml_backend_dev_t device, ggml_type type, int64_t n_values) {
    return can_run(device, [&](ggml_context * ctx) {
        return ggml_set_rows(ctx, ggml_new_tensor_2d(ctx, type, n_values, 256),
                ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_values, 1), ggml_new_tensor_1d(ctx, GGML_TYPE_I64, 1));
    });
}

static bool can_attend(ggml_backend_dev_t device, const llama_hparams & hparams, uint32_t il, ggml_type type_k, ggml_type type_v) {
    const int64_t n_head_kv = hparams.n_head_kv(il);

    return can_run(device, [&](ggml_context * ctx) {
        ggml_tensor * res = ggml_flash_attn_ext(ctx,
                ggml_new_tensor_3d(ctx, GGML_TYPE_F32, hparams.n_embd_head_k(il), 16, hparams.n_head(il)),
                ggml_new_tensor_3d(ctx, type_k, hparams.n_embd_head_k(il), 256, n_head_kv),
                ggml_new_tensor_3d(ctx, type_v, hparams.n_embd_head_v(il), 256, n_head_kv),
                ggml_new_tensor_2d(ctx, GGML_TYPE_F16, 256, 16), 1.0f, 0.0f, 0.0f);
        ggml_flash_attn_ext_set_prec(res, GGML_PREC_F32);
        return res;
    });
}

// positions that move turn their keys: F32 and F16 in place, others as F32 and written back
static bool can_turn_keys(ggml_backend_dev_t device, const llama_hparams & hparams, uint32_t il, ggml_type type) {
    const bool is_cast = type != GGML_TYPE_F32 && type != GGML_TYPE_F16;

    return can_run(device, [&](ggml_context * ctx) {
        ggml_tensor * keys = ggml_new_tensor_3d(ctx, type, hparams.n_embd_head_k(il), hparams.n_head_kv(il), 256);
        if (is_cast) {
            return ggml_cpy(ctx, ggml_new_tensor_3d(ctx, GGML_TYPE_F32, keys->ne[0], keys->ne[1], keys->ne[2]), keys);
        }
        return ggml_rope_ext_inplace(ctx, keys, ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 256), nullptr,
                hparams.n_rot(il), hparams.rope_type, 0, 10000.0f, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
    });
}

// call f once for each device that holds keys, with the first layer of each width there
static void for_each_part(
        const llama_model & model, bool offload, const std::function<void(ggml_backend_dev_t, uint32_t)> & f) {
    using part = std::tuple<ggml_backend_dev_t, uint32_t, uint32_t, uint32_t>;
    std::set<part> seen;

    for (uint32_t il = 0; il < model.hparams.n_layer(); ++il) {
        if (!has_kv(model, il)) {
            continue;
        }
        ggml_backend_dev_t device = device_of_layer(model, offload, il);
        const part here { device, model.hparams.n_embd_head_k(il), model.hparams.n_head(il), model.hparams.n_head_kv(il) };
        if (!is_host(device) && seen.insert(here).second) {
            f(device, il);
        }
    }
}

bool treellama_can_turn_keys(const llama_model & model, bool offload, ggml_type type_k) {
    bool res = true;
    for_each_part(model, offload, [&](ggml_backend_dev_t device, uint32_t il) {
        res = res && (model.hparams.rope_type == LLAMA_ROPE_TYPE_NONE || can_turn_keys(device, model.hparams, il, type_k));
    });
    return res;
}

int32_t treellama_check_cache_types(const llama_model * model, bool offload, ggml_type type_k, ggml_type type_v, bool flash) {
    return treellama_guard(TREELLAMA_EXCEPTION, [&] {
        const auto & hparams = model->hparams;

        for_each_part(*model, offload, [&](ggml_backend_dev_t device, uint32_t il) {
            const auto refuse = [&](const std::string & what) {
                throw std::runtime_error(std::string(ggml_backend_dev_name(device)) + " " + what);
            };
            const auto check_rows = [&](ggml_type type, int64_t n_values) {
                if (!can_write_rows(device, type, n_values)) {
                    refuse(std::string("cannot write a KV cache of type ") + ggml_type_name(type));
                }
            };

            check_rows(type_k, hparams.n_embd_k_gqa(il));
            if (hparams.is_mla()) {
                return; // no V, and heads of their own kinds
            }
            check_rows(type_v, hparams.n_embd_v_gqa(il));
            if ((flash || ggml_is_quantized(type_v)) && !can_attend(device, hparams, il, type_k, type_v)) {
                refuse(std::string("has no flash attention for keys of type ") + ggml_type_name(type_k) + ", values of type " +
                        ggml_type_name(type_v) + " and heads of " + std::to_string(hparams.n_embd_head_k(il)));
            }
        });
        return 0;
    });
}
