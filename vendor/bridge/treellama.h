#pragma once

// treellama: the C ABI through which pytreellama reaches llama.cpp.
//
// llama.h is called directly where it cannot throw. Everything that can throw goes through here:
// a C++ exception becomes TREELLAMA_EXCEPTION (or NULL), and treellama_last_error() tells why.
// What llama.h does not offer (whole vocabularies in one call, top-k of many rows, the mask that
// a graph really used) is here as well.

#include "llama.h"
#include "treellama-limits.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// statuses beyond those of llama_decode (0, 1, 2, -1, -2, -3)
#define TREELLAMA_EXCEPTION     -100
#define TREELLAMA_NO_CANDIDATE  -101
#define TREELLAMA_TOO_MUCH_WORK -102

//
// errors and log
//

// what went wrong in this thread's last call that failed; never NULL
LLAMA_API const char * treellama_last_error(void);

// once, when the libraries are loaded: the end of the process waits for calls that other threads are in, and a child made
// by fork starts with pools of its own
LLAMA_API void treellama_process_start(void);

// collect llama.cpp's log in a ring of lines instead of printing it
LLAMA_API void treellama_log_collect(void);

// number of lines waiting
LLAMA_API int32_t treellama_log_pending(void);

// take the oldest line: its length, or -1 if none; longer lines are cut to size-1 bytes
LLAMA_API int32_t treellama_log_next(int32_t * level, char * buf, int32_t size);

//
// model
//

// check a GGUF file before it is loaded: header, metadata, and that every tensor lies within the file
LLAMA_API int32_t treellama_gguf_check(const char * path);

LLAMA_API struct llama_model * treellama_model_load(const char * path, const struct llama_model_params * params);

// bytes of a KV cache of n_ctx cells, as if no layer had a sliding window
LLAMA_API int64_t treellama_kv_bytes(
        const struct llama_model * model, uint32_t n_ctx, enum ggml_type type_k, enum ggml_type type_v);

// positions that the model has learned, each with weights of its own; -1 if it has no such limit
LLAMA_API int64_t treellama_n_positions(const struct llama_model * model);

LLAMA_API int32_t treellama_quantize(const char * path_in, const char * path_out, const struct llama_model_quantize_params * params);

//
// vocabulary
//

// number of tokens, or minus the number needed; TREELLAMA_EXCEPTION is reported through *failed
LLAMA_API int32_t treellama_tokenize(
        const struct llama_vocab * vocab,
        const char * text, int32_t n_text,
        llama_token * tokens, int32_t n_tokens_max,
        bool add_special, bool parse_special, bool * failed);

// for tests: split text by std::regex on this thread, as llama.cpp does, which recurses once a character
LLAMA_API void treellama_use_std_regex(bool value);

// the bytes of many tokens in one call: offsets[n_tokens + 1] into buf
// returns the number of bytes; if it is more than size, nothing was written beyond size: call again with a larger buf
LLAMA_API int64_t treellama_pieces(
        const struct llama_vocab * vocab,
        const llama_token * tokens, int32_t n_tokens, bool special,
        char * buf, int64_t size, int64_t * offsets);

//
// context
//

// observes the attention of a context, for tests; see treellama_probe_* below
struct treellama_probe;

// params->abort_callback may be treellama_abort_if with an int32_t flag as data
LLAMA_API struct llama_context * treellama_context_init(
        struct llama_model * model, const struct llama_context_params * params, struct treellama_probe * probe);

// threads that wait between passes, shared by all contexts that have as many and take turns; without them, ggml makes
// and frees a pool for every graph. NULL if this build has no CPU backend, or with an error if the threads cannot be started. Release them
// after the context's end.
struct treellama_threads;

LLAMA_API struct treellama_threads * treellama_threads_attach (struct llama_context * ctx);
LLAMA_API void                       treellama_threads_release(struct treellama_threads * threads);

// true once *(int32_t *) flag is not 0: an abort callback that needs no Python
LLAMA_API bool treellama_abort_if(void * flag);

// as llama_decode, or TREELLAMA_EXCEPTION
LLAMA_API int32_t treellama_decode(struct llama_context * ctx, const struct llama_batch * batch);

// one token of one sequence, at the position after its last, with logits: a plain step in one call
LLAMA_API int32_t treellama_decode_one(struct llama_context * ctx, llama_token token, llama_seq_id seq_id);

// keep the hidden states behind the output norm of the tokens whose logits are asked for
LLAMA_API void treellama_hidden_keep(struct llama_context * ctx, bool keep);

// those of the last pass behind some rows of logits, n_embd_out floats each
LLAMA_API int32_t treellama_hidden(struct llama_context * ctx, const int32_t * rows, int32_t n_rows, float * out);

//
// trees: a sequence's guesses, which hang on the end of its text and all carry its one seq_id
//
// a node sees the text, its ancestors and itself. Its position is one more than its parent's; siblings share one.
// Nodes are pending until a path of them is committed, or all are discarded. They are numbered in the order in which
// they were added. While a sequence has some, its text cannot go on, and treellama_memory_* and treellama_state_* must
// leave it alone.
//

// a token that is no node
#define TREELLAMA_TEXT -2

// false if the memory of this model cannot hold trees: what is recurrent, or looks up tokens by their position
LLAMA_API bool treellama_tree_supported(const struct llama_context * ctx);

// as treellama_decode; the tokens with a parent other than TREELLAMA_TEXT become nodes
//   parents: -1 for the end of the text, or a node of the same sequence, old or earlier in this batch
// unless 0 is returned, none of them does, and what was pending before stays so
LLAMA_API int32_t treellama_tree_decode(
        struct llama_context * ctx, const struct llama_batch * batch, const int32_t * parents);

// the same of one tree of a sequence that has no pending nodes, all with logits; parents before their children
LLAMA_API int32_t treellama_tree_decode_one(
        struct llama_context * ctx, llama_seq_id seq_id, const llama_token * tokens, const int32_t * parents,
        const int32_t * depths, int32_t n_nodes);

// number of pending nodes of a sequence; parents and pos may be NULL together to ask
LLAMA_API int32_t treellama_tree_nodes(
        const struct llama_context * ctx, llama_seq_id seq_id, int32_t * parents, llama_pos * pos);

// make a path of nodes (each the parent of the next) text and free all others; -1 if it is not such a path
// the path's keys and values move, bit for bit, to the lowest cells of the tree
//   by_graph: move them as on a device, for tests
LLAMA_API int32_t treellama_tree_commit(
        struct llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path, bool by_graph);

// free all pending nodes of a sequence
LLAMA_API int32_t treellama_tree_discard(struct llama_context * ctx, llama_seq_id seq_id);

//
// memory: as llama_memory_*, with 0 for success
//

LLAMA_API int32_t treellama_memory_clear   (struct llama_context * ctx, bool data);
LLAMA_API int32_t treellama_memory_seq_rm  (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1); // 1: partial removal refused
LLAMA_API int32_t treellama_memory_seq_cp  (struct llama_context * ctx, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1);
LLAMA_API int32_t treellama_memory_seq_keep(struct llama_context * ctx, llama_seq_id seq_id);
LLAMA_API int32_t treellama_memory_seq_add (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos delta);
LLAMA_API int32_t treellama_memory_seq_div (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, int32_t d);

// true if positions can be moved afterwards: not where each has learned weights of its own
LLAMA_API bool treellama_memory_can_shift(struct llama_context * ctx);

// carry out the shifts and copies that wait for the next pass
LLAMA_API int32_t treellama_memory_update(struct llama_context * ctx);

// smallest and largest position of many sequences, -1 where empty
LLAMA_API int32_t treellama_memory_ranges(
        struct llama_context * ctx, const llama_seq_id * seq_ids, int32_t n_seqs, llama_pos * pos_min, llama_pos * pos_max);

//
// state: sizes in bytes, 0 on failure; seq_id -1 means the whole context
//

LLAMA_API size_t treellama_state_size(struct llama_context * ctx, llama_seq_id seq_id);
LLAMA_API size_t treellama_state_get (struct llama_context * ctx, llama_seq_id seq_id,       uint8_t * dst, size_t size);
LLAMA_API size_t treellama_state_set (struct llama_context * ctx, llama_seq_id seq_id, const uint8_t * src, size_t size);

//
// logits: rows are n_vocab floats, one after another
//

LLAMA_API void treellama_argmax(const float * logits, int32_t n_rows, int32_t n_vocab, llama_token * tokens);

// the k likeliest tokens of each row, falling, ties by token id, with their logits or, if normalised, their log-probabilities
// under softmax at temperature 1, which takes longer
LLAMA_API int32_t treellama_top_k(
        const float * logits, int32_t n_rows, int32_t n_vocab, int32_t k, bool normalise, llama_token * tokens, float * values);

// natural log of the softmax probability of one token a row
LLAMA_API void treellama_logp(
        const float * logits, int32_t n_rows, int32_t n_vocab, const llama_token * tokens, float * logp);

//
// sampling
//

// a GBNF grammar. What one may do is bounded in work, at its start and a token: beyond that, what is asked of it is
// TREELLAMA_TOO_MUCH_WORK. NULL for one that cannot be parsed, or that llama.cpp could not handle (left recursion, too many
// rules at once)
struct treellama_grammar;

LLAMA_API struct treellama_grammar * treellama_grammar_init (const struct llama_vocab * vocab, const char * text, const char * root);
LLAMA_API struct treellama_grammar * treellama_grammar_clone(const struct treellama_grammar * grammar);
LLAMA_API int32_t                    treellama_grammar_reset(struct treellama_grammar * grammar);
LLAMA_API void                       treellama_grammar_free (struct treellama_grammar * grammar);

// TREELLAMA_NO_CANDIDATE if the grammar refuses the token, and stays as it was
LLAMA_API int32_t treellama_grammar_accept(struct treellama_grammar * grammar, llama_token token);

// as llama_sampler_init_dry, llama_sampler_clone and llama_sampler_reset, which may throw; NULL or TREELLAMA_EXCEPTION then
LLAMA_API struct llama_sampler * treellama_dry_init(
        const struct llama_vocab * vocab, float multiplier, float base, int32_t allowed_length, int32_t last_n,
        const char ** breakers, size_t n_breakers);
LLAMA_API struct llama_sampler * treellama_sampler_clone(const struct llama_sampler * sampler);
LLAMA_API int32_t                treellama_sampler_reset(struct llama_sampler * sampler);

// draw one token from a row of logits and accept it into the chain and the grammar
//   grammar: may be NULL. The chain draws first; only if the grammar refuses that token is it applied to all
//            candidates and the draw repeated (llama.cpp does so in common/sampling.cpp)
//   allowed: may be NULL; otherwise a bit a token, those without are left out
//   scratch: n_vocab entries
LLAMA_API int32_t treellama_sample(
        struct llama_sampler * chain, struct treellama_grammar * grammar,
        const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, llama_token * token);

// as treellama_sample, but neither the chain nor the grammar is told of the token
LLAMA_API int32_t treellama_draw(
        struct llama_sampler * chain, struct treellama_grammar * grammar,
        const float * logits, int32_t n_vocab, const uint32_t * allowed,
        llama_token_data * scratch, llama_token * token);

// tell a chain of tokens
LLAMA_API int32_t treellama_accept(struct llama_sampler * sampler, llama_token token);
LLAMA_API int32_t treellama_accept_all(struct llama_sampler * sampler, const llama_token * tokens, int32_t n_tokens);

//
// successors: the table of the recycling drafter
//

struct treellama_successors;

// rows behind one, two and three tokens; at most max_entries of each
LLAMA_API struct treellama_successors * treellama_successors_new (int64_t max_entries);
LLAMA_API void                          treellama_successors_free(struct treellama_successors * table);

// rows behind so many tokens, and the most successors of any row
LLAMA_API int64_t treellama_successors_size   (const struct treellama_successors * table, int32_t length);
LLAMA_API int32_t treellama_successors_max_row(const struct treellama_successors * table);

// keep the first k (at most TREELLAMA_SUCCESSORS_ROW_MAX) of n_next successors of every node of a tree; text is what stands before the tree
LLAMA_API int32_t treellama_successors_learn(
        struct treellama_successors * table, const int32_t * text, int32_t n_text, const int32_t * tokens,
        const int32_t * parents, int32_t n_nodes, const int32_t * next, const float * logits, int32_t n_next, int32_t k);

// count which successors were right along the tokens that the text went on with
LLAMA_API void treellama_successors_judge(
        struct treellama_successors * table, const int32_t * text, int32_t n_text, const int32_t * went_on, int32_t n);

// what may follow a text, and how likely; room for a row of each length; returns how many
LLAMA_API int32_t treellama_successors_of(
        const struct treellama_successors * table, const int32_t * text, int32_t n_text, double min_p, int32_t * tokens,
        double * p);

// the likeliest paths that may follow, parents first, with path probabilities; returns the number of nodes
LLAMA_API int32_t treellama_successors_grow(
        const struct treellama_successors * table, const int32_t * text, int32_t n_text, int32_t n_nodes,
        int32_t max_depth, double min_p, int32_t * tokens, int32_t * parents, double * p);

// the rows behind so many tokens, the oldest first, k columns, -1 for no token
LLAMA_API void treellama_successors_get(
        const struct treellama_successors * table, int32_t length, int32_t k, int64_t * keys, int32_t * tokens,
        int32_t * shares);
LLAMA_API int32_t treellama_successors_set(
        struct treellama_successors * table, int32_t length, int64_t n, int32_t k, const int64_t * keys,
        const int32_t * tokens, const int32_t * shares);

// how often successors were seen, or right: [backed off][length - 1][class of share]
LLAMA_API double * treellama_successors_counts(struct treellama_successors * table, bool right);

//
// heads: Medusa's, which guess the next tokens from the hidden state behind the last one
//
// A head is n_layers blocks x + silu(w x + b) over n_embd channels, then an output matrix. The first block also sees
// tokens, if the file says so: its x is the hidden state, its w x that of the state and the tokens' embeddings, each
// divided by its root mean square, one after another.
//

enum treellama_heads_sees {
    TREELLAMA_HEADS_SEES_NONE, // the hidden state alone, as Medusa does
    TREELLAMA_HEADS_SEES_ROOT, // the token behind it as well, which is known
    TREELLAMA_HEADS_SEES_PATH, // and all that are guessed before the head's own, as Hydra does
};

struct treellama_heads_facts {
    int32_t n_heads;
    int32_t n_layers;
    int32_t n_embd;
    int32_t n_rows;      // of an output matrix
    int32_t n_deep_rows; // of these, the first, that heads after the first have
    enum treellama_heads_sees sees;
    bool    has_output;    // output matrices of their own, not the model's
    bool    has_shortlist; // a row for some tokens only
    float   logit_scale;
};

struct treellama_heads;

// NULL for a file that is damaged, is no file of heads, or has other sizes than the model
//   model_path: of the model's own file, from which the rows of a shortlist are taken
LLAMA_API struct treellama_heads * treellama_heads_load(const char * path, const char * model_path, const struct llama_model * model);
LLAMA_API void                     treellama_heads_free(struct treellama_heads * heads);

LLAMA_API struct treellama_heads_facts treellama_heads_get_facts(const struct treellama_heads * heads);

// a value of the file's metadata as text; NULL if there is no such key
LLAMA_API const char * treellama_heads_meta(const struct treellama_heads * heads, const char * key);

// the token of each row; n_rows
LLAMA_API void treellama_heads_tokens(const struct treellama_heads * heads, int32_t * tokens);

// logits of one head for n columns
//   hidden [n_embd]               the state that all of them share
//   seen   [n][tokens of a head]  what the head sees: none, the root, or the root and head guesses
//   logits [n][n_rows], or n_deep_rows
LLAMA_API int32_t treellama_heads_logits(
        struct treellama_heads * heads, int32_t n_threads, int32_t head, const float * hidden, const int32_t * seen,
        int32_t n, float * logits);

// the likeliest guesses behind a token that follows a hidden state; returns the number of nodes, parents first
//   top:   children of a node that are considered
//   width: nodes of a level that are followed up, where that takes a product
//   p:     of a node's whole path
LLAMA_API int32_t treellama_heads_grow(
        struct treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root, int32_t n_nodes,
        int32_t top, int32_t width, double min_p, int32_t * tokens, int32_t * parents, double * p);

// the same for a tree of a given shape: ranks[i] is which of its parent's children node i is, the likeliest is 0
LLAMA_API int32_t treellama_heads_fill(
        struct treellama_heads * heads, int32_t n_threads, const float * hidden, llama_token root, int32_t n_nodes,
        const int32_t * parents, const int32_t * ranks, int32_t * tokens, double * p);

// the weights of all norms, by name, which are the same however a model is quantised; returns how many
// out may be NULL to ask
LLAMA_API int64_t treellama_norms(const struct llama_model * model, float * out);

// rows of the output matrix as the model's file has them, and of the embeddings of tokens; n_embd floats each
LLAMA_API int32_t treellama_output_rows   (const char * model_path, const int32_t * rows, int32_t n, int64_t n_embd, float * out);
LLAMA_API int32_t treellama_embedding_rows(const struct llama_model * model, const int32_t * tokens, int32_t n, float * out);

// what logits are multiplied by, 1 for most models
LLAMA_API float treellama_logit_scale(const struct llama_model * model);

//
// probe: the masks that attention really used
//

LLAMA_API struct treellama_probe * treellama_probe_new (void);
LLAMA_API void                     treellama_probe_free(struct treellama_probe * probe);

// forget what was recorded
LLAMA_API void treellama_probe_reset(struct treellama_probe * probe);

// records so far: one for each micro-batch and each cache (base, sliding window)
LLAMA_API int32_t treellama_probe_count(const struct treellama_probe * probe);

// record i: rows are the tokens of the micro-batch (stream by stream), columns are cells
// data (n_streams*n_tokens*n_kv floats) may be NULL to ask for the shape only
LLAMA_API int32_t treellama_probe_read(
        const struct treellama_probe * probe, int32_t i,
        bool * is_swa, int32_t * n_kv, int32_t * n_tokens, int32_t * n_streams, float * data);

// cells in use of the cache that holds a sequence, those of pending nodes too; -1 if the model has none
LLAMA_API int32_t treellama_n_cells_used(struct llama_context * ctx, llama_seq_id seq_id);

// the cells of the cache (the sliding-window one if swa) that holds seq_id
//   pos:   position of each cell, -1 if empty
//   nodes: the pending node that it holds, -1 if none
//   seqs:  256 bits a cell, the sequences that it belongs to
// returns the number of cells (pos, nodes and seqs may be NULL together to ask), or -1 if the memory has no such cache
LLAMA_API int32_t treellama_cells(
        struct llama_context * ctx, bool swa, llama_seq_id seq_id, llama_pos * pos, int32_t * nodes, uint32_t * seqs);

//
// attention: one op by itself, on the CPU
//

struct treellama_attention_params {
    int32_t n_embd_k; // channels of a head of Q and K
    int32_t n_embd_v; // channels of a head of V
    int32_t n_head;
    int32_t n_head_kv;
    int32_t n_tokens;
    int32_t n_kv;     // cells
    int32_t n_streams;
    int32_t n_order;  // length of a row of the order
    int32_t n_threads;

    // to which K and V are converted before
    enum ggml_type type_k;
    enum ggml_type type_v;

    float scale;
    float max_bias;   // of ALiBi; 0 for none
    float softcap;    // 0 for none

    bool  use_ref;    // ggml's reference code
};

// softmax(q k^T scale + mask) v for each head
//   q     [n_streams][n_tokens][n_head]   [n_embd_k]
//   k     [n_streams][n_kv]    [n_head_kv][n_embd_k]
//   v     [n_streams][n_kv]    [n_head_kv][n_embd_v]
//   mask  [n_streams][n_tokens][n_kv]                   rounded to F16
//   order [n_streams][n_order]                          see ggml_flash_attn_ext_set_order; NULL for stock's code
//   sinks [n_head]                                      may be NULL
//   out   [n_streams][n_tokens][n_head]   [n_embd_v]
LLAMA_API int32_t treellama_attention(
        const struct treellama_attention_params * params,
        const float * q, const float * k, const float * v,
        const float * mask, const int32_t * order, const float * sinks, float * out);

//
// matrix products: one op by itself, on the CPU
//

// weights as a file holds them, and back: ggml_quantize_chunk without an importance matrix, or TREELLAMA_EXCEPTION
//   n_per_row: a multiple of the type's block
LLAMA_API int32_t treellama_quantize_rows(
        enum ggml_type type, const float * values, int64_t n_rows, int64_t n_per_row, void * data);
LLAMA_API int32_t treellama_dequantize_rows(
        enum ggml_type type, const void * data, int64_t n_rows, int64_t n_per_row, float * values);

struct treellama_matmul_params {
    int64_t n_in;
    int64_t n_out;
    int64_t n_experts; // matrices of weights; 1 without ids
    int64_t n_tokens;
    int64_t n_used;    // experts of a token
    int64_t n_inputs;  // rows of x that a token has; its experts take them in turn
    int32_t n_threads;

    enum ggml_type type; // of the weights

    bool packed;       // weights in the memory layout that a model's would have, else as in a file
    bool use_ref;      // ggml's reference code
};

// x w^T, each token with its own experts if there are ids (GGML_OP_MUL_MAT_ID), else with the one matrix (GGML_OP_MUL_MAT)
//   w    [n_experts][n_out][n_in]                         of the type
//   x    [n_tokens][n_inputs][n_in],   without ids [n_tokens][n_in]
//   ids  [n_tokens][n_used]                               NULL for one matrix; a token has no expert twice
//   out  [n_tokens][n_used]  [n_out],  without ids [n_tokens][n_out]
LLAMA_API int32_t treellama_matmul(
        const struct treellama_matmul_params * params,
        const void * w, const float * x, const int32_t * ids, float * out);

#ifdef __cplusplus
}
#endif
