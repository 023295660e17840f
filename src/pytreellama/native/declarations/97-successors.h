/* treellama-successors.h: the table of the recycling drafter */

struct treellama_successors;

struct treellama_successors * treellama_successors_new (int64_t max_entries);
void                          treellama_successors_free(struct treellama_successors * table);

int64_t treellama_successors_size   (const struct treellama_successors * table, int32_t length);
int32_t treellama_successors_max_row(const struct treellama_successors * table);

int32_t treellama_successors_learn(
        struct treellama_successors * table, const int32_t * text, int32_t n_text, const int32_t * tokens,
        const int32_t * parents, int32_t n_nodes, const int32_t * next, const float * logits, int32_t n_next, int32_t k);

void treellama_successors_judge(
        struct treellama_successors * table, const int32_t * text, int32_t n_text, const int32_t * went_on, int32_t n);

int32_t treellama_successors_of(
        const struct treellama_successors * table, const int32_t * text, int32_t n_text, double min_p, int32_t * tokens,
        double * p);

int32_t treellama_successors_grow(
        const struct treellama_successors * table, const int32_t * text, int32_t n_text, int32_t n_nodes,
        int32_t max_depth, double min_p, int32_t * tokens, int32_t * parents, double * p);

void treellama_successors_get(
        const struct treellama_successors * table, int32_t length, int32_t k, int64_t * keys, int32_t * tokens,
        int32_t * shares);
int32_t treellama_successors_set(
        struct treellama_successors * table, int32_t length, int64_t n, int32_t k, const int64_t * keys,
        const int32_t * tokens, const int32_t * shares);

double * treellama_successors_counts(struct treellama_successors * table, bool right);
