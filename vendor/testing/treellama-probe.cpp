// the masks that attention really used

#include "treellama-probe.h"

#include "ggml-backend.h"
#include "llama-context.h"
#include "llama-cparams.h"

#include <cstring>
#include <map>
#include <string>
#include <vector>

struct treellama_probe {
    struct record {
        bool is_swa;

        int32_t n_kv;
        int32_t n_tokens;
        int32_t n_streams;

        std::vector<float> data;
    };

    std::vector<record> records;

    // the attention op that showed each mask first: when it comes by again, a new micro-batch has begun
    std::map<std::string, std::string> first_op;
};

static const ggml_tensor * attention_mask(const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_FLASH_ATTN_EXT: return op->src[3];
        case GGML_OP_SOFT_MAX:       return op->src[1];
        default:                     return nullptr;
    }
}

// the mask is read after its op has run, from wherever the backend keeps it
static std::vector<float> read_floats(const ggml_tensor * tensor) {
    std::vector<float> res(ggml_nelements(tensor));

    if (tensor->type == GGML_TYPE_F16) {
        std::vector<ggml_fp16_t> half(res.size());
        ggml_backend_tensor_get(tensor, half.data(), 0, ggml_nbytes(tensor));
        ggml_fp16_to_fp32_row(half.data(), res.data(), (int64_t) res.size());
    } else {
        ggml_backend_tensor_get(tensor, res.data(), 0, ggml_nbytes(tensor));
    }

    return res;
}

static bool probe_eval(ggml_tensor * op, bool ask, void * user_data) {
    auto * probe = (treellama_probe *) user_data;

    // a mask that was copied to another device keeps its name as a part of the copy's
    const ggml_tensor * mask = attention_mask(op);
    if (!mask || !strstr(mask->name, "attn_inp_kq_mask")) {
        return false;
    }

    const auto it = probe->first_op.emplace(mask->name, op->name).first;
    if (it->second != op->name) {
        return false;
    }

    if (!ask) {
        probe->records.push_back({
            /*.is_swa    =*/ strstr(mask->name, "attn_inp_kq_mask_swa") != nullptr,
            /*.n_kv      =*/ (int32_t) mask->ne[0],
            /*.n_tokens  =*/ (int32_t) mask->ne[1],
            /*.n_streams =*/ (int32_t) mask->ne[3],
            /*.data      =*/ read_floats(mask),
        });
    }

    return true;
}

treellama_probe * treellama_probe_new(void) {
    return new treellama_probe();
}

void treellama_probe_free(treellama_probe * probe) {
    delete probe;
}

void treellama_probe_attach(treellama_probe * probe, llama_context * ctx) {
    // llama.h takes the callback when it makes a context; graphs take it from here when they are built
    auto & cparams = const_cast<llama_cparams &>(ctx->get_cparams());
    cparams.cb_eval           = probe ? probe_eval : nullptr;
    cparams.cb_eval_user_data = probe;
}

void treellama_probe_reset(treellama_probe * probe) {
    probe->records.clear();
    probe->first_op.clear();
}

int32_t treellama_probe_count(const treellama_probe * probe) {
    return (int32_t) probe->records.size();
}

int32_t treellama_probe_read(
        const treellama_probe * probe, int32_t i,
        bool * is_swa, int32_t * n_kv, int32_t * n_tokens, int32_t * n_streams, float * data) {
    if (i < 0 || i >= (int32_t) probe->records.size()) {
        return -1;
    }

    const auto & record = probe->records[i];

    *is_swa    = record.is_swa;
    *n_kv      = record.n_kv;
    *n_tokens  = record.n_tokens;
    *n_streams = record.n_streams;

    if (data) {
        memcpy(data, record.data.data(), record.data.size()*sizeof(float));
    }

    return 0;
}
