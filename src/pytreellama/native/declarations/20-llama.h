/* llama.h: nouns and plain types */

typedef int32_t llama_pos;
typedef int32_t llama_token;
typedef int32_t llama_seq_id;

struct llama_vocab;
struct llama_model;
struct llama_context;
struct llama_sampler;

void         llama_backend_init(void);
const char * llama_version(void);
const char * llama_print_system_info(void);
