/* treellama-wkv.h: one of RWKV's recurrent ops by itself */

enum treellama_wkv_kind { TREELLAMA_WKV6, TREELLAMA_WKV7, TREELLAMA_GLA };

struct treellama_wkv_params {
    enum treellama_wkv_kind kind;
    int64_t n_embd;
    int64_t n_head;
    int64_t n_tokens;
    int64_t n_states;
    int32_t n_threads;
    bool use_ref;
};

int32_t treellama_wkv(const struct treellama_wkv_params * params, const float * inputs, const float * bonus,
    const float * states, const int32_t * parents, float * out, float * states_out);
