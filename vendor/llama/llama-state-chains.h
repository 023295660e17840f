#pragma once

#include "llama.h"

#include <cstdint>
#include <utility>
#include <vector>

struct llama_memory_i;

class llama_memory_recurrent;

// chains of tokens over recurrent states, of which a part can be taken back
//
// llama.cpp's graphs can write the states behind the last tokens of a pass into planes of the state tensors, plane s the state
//   s tokens back (n_rs_seq). its own rollback is single use, knows no way back to before the pass though it says so, and makes
//   all passes over text pay. so texts run as without planes; the pass over a chain alone writes planes 0 to n_max() - 1, and
//   what the chain's end is moves to plane 0. plane n_max() has the states before the pass, by seq_id
class llama_state_chains {
public:
    // most tokens of a chain; 0 if the states of this memory have no planes
    static uint32_t n_max(const llama_memory_i * mem);

    // what a state takes, in all layers
    static size_t n_bytes_of_state(const llama_memory_i * mem);

    // once: texts do without planes
    static void init(llama_context & lctx);

    // let a sequence be what it was when it had n_past tokens, and n_keep of the n_tokens that the pass after that added
    static void roll_back(llama_context & lctx, llama_seq_id seq_id, llama_pos n_past, uint32_t n_tokens, uint32_t n_keep);

    // once the cells of a part of such a pass are found: states that made place for others take those of earlier parts along
    static void follow(llama_context & lctx);

    // a pass over a batch with chains: from begin() to end(), passes write planes. Unless it succeeds, all sequences of the
    //   batch are in the end what they were before it
    class pass {
    public:
        // each token belongs to one sequence
        void begin(llama_context & lctx, const llama_batch & batch);
        void end  (llama_context & lctx, bool success);

    private:
        std::vector<std::pair<llama_seq_id, llama_pos>> n_past; // of each sequence of the batch
    };
};
