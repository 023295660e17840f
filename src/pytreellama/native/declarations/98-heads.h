/* treellama-heads.h */

enum treellama_heads_sees {
    TREELLAMA_HEADS_SEES_NONE,
    TREELLAMA_HEADS_SEES_ROOT,
    TREELLAMA_HEADS_SEES_PATH,
};

struct treellama_heads_facts {
    int32_t n_heads;
    int32_t n_layers;
    int32_t n_embd;
    int32_t n_rows;
    int32_t n_deep_rows;
    enum treellama_heads_sees sees;
    bool    has_output;
    bool    has_shortlist;
    float   logit_scale;
};

struct treellama_heads;

struct treellama_heads * treellama_heads_load(
        const char * path, const char * model_path, const struct llama_model * model);
void                     treellama_heads_free(struct treellama_heads * heads);

struct treellama_heads_facts treellama_heads_get_facts(const struct treellama_heads * heads);
const char *                 treellama_heads_meta     (const struct treellama_heads * heads, const char * key);
void                         treellama_heads_tokens   (const struct treellama_heads * heads, int32_t * tokens);

int32_t treellama_heads_logits(
        struct treellama_heads * heads, int32_t n_threads, int32_t head, const float * hidden,
        const int32_t * seen, int32_t n, float * logits);

int32_t treellama_heads_grow(
        struct treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root,
        int32_t n_nodes, int32_t top, int32_t width, double min_p, int32_t * tokens, int32_t * parents, double * p);

int32_t treellama_heads_fill(
        struct treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root,
        int32_t n_nodes, const int32_t * parents, const int32_t * ranks, int32_t * tokens, double * p);
