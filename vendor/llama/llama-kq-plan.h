#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// cells that the same groups of tokens see
struct llama_kq_cells {
    std::vector<int32_t> groups; // rising

    std::vector<int32_t> cells;
    std::vector<int32_t> pos;
};

// how attention reads the cells of some groups of tokens: ggml_flash_attn_ext_set_order() says what is written
class llama_kq_plan {
public:
    // group_of_token: each group has a token. lists: a cell is in one of them
    llama_kq_plan(uint32_t n_groups, std::vector<int32_t> group_of_token, std::vector<llama_kq_cells> lists);

    // numbers that are enough for any lists with so many cells
    static size_t size_max(uint32_t n_groups, uint32_t n_tokens, uint32_t n_cells);

    // numbers that are needed
    size_t size() const;

    // where they do not fit, all groups get the same list of all cells, which the mask then hides
    void write(int32_t * row, size_t n);

private:
    // cells in a row, those of a list or some that were put together for one block
    struct part {
        int32_t t0;
        int32_t n_t;
        int32_t begin;
        int32_t n;
    };

    struct entry {
        std::vector<int32_t> groups;
        std::vector<part>    parts; // t0 and n_t count groups here

        int32_t n_block = 0;
    };

    // the cells of a list in one chunk
    struct piece {
        int32_t chunk;
        int32_t list;
        int32_t begin;
        int32_t end;
    };

    // which pieces each group sees in each block of a chunk
    struct blocks;

    const uint32_t n_groups;

    std::vector<int32_t> group_of_token;
    std::vector<int32_t> n_tokens; // [n_groups]

    std::vector<llama_kq_cells> lists;
    std::vector<int32_t>        n_block; // [list] the most cells of one block

    // of all lists, one behind the other, and what was put together
    std::vector<int32_t> cells;
    std::vector<int32_t> pos;

    std::vector<entry> alone; // [n_groups]
    std::vector<entry> teams;

    std::vector<int32_t> team_of_list;  // the last one that took all groups of a list; -1
    std::vector<int32_t> team_of_group; // the last one of a group by itself; -1

    bool is_shared() const;

    void plan();
    void plan_chunk(const std::vector<piece> & pieces, size_t begin, size_t end);
    void add_whole (const piece & p);
    void add_ragged(const std::vector<piece> & pieces);
    void add_blocks(const blocks & all, entry & team, int32_t b, int32_t begin, int32_t end);
    void add_part  (entry & team, int32_t begin, int32_t end, const part & cells, int32_t n_in_block);

    entry & team_for(const std::vector<int32_t> & groups, int32_t list);

    part  put_together(std::vector<part> ranges);
    void  merge_lists();
};
