#include "llama-kq-plan.h"

#include "ordered/order.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

static constexpr int32_t N_BLOCKS = FATTN_ORDER_CHUNK/FATTN_ORDER_BLOCK;

// room for what groups do not see whole, see size_max()
static constexpr size_t N_GATHERED = 512;
static constexpr size_t N_TABLE    = 256;
static constexpr size_t N_TEAMS    = 16;

static void sort_by_position(llama_kq_cells & list) {
    // text that was written in one go is sorted already
    if (std::is_sorted(list.pos.begin(), list.pos.end())) {
        return;
    }

    std::vector<std::pair<int32_t, int32_t>> both(list.cells.size());
    for (size_t i = 0; i < both.size(); ++i) {
        both[i] = { list.pos[i], list.cells[i] };
    }
    std::stable_sort(both.begin(), both.end(), [](const auto & a, const auto & b) { return a.first < b.first; });
    for (size_t i = 0; i < both.size(); ++i) {
        std::tie(list.pos[i], list.cells[i]) = both[i];
    }
}

// behind the cells whose positions are below a limit; most stand there, once each
static int32_t find_limit(const int32_t * pos, int32_t begin, int32_t end, int64_t limit) {
    const int64_t guess = std::min<int64_t>(end, begin + limit - pos[begin]);
    if (pos[guess - 1] < limit && (guess == end || pos[guess] >= limit)) {
        return (int32_t) guess;
    }
    return (int32_t) (std::lower_bound(pos + begin, pos + end, limit) - pos);
}

// siblings share their positions
static int32_t most_in_block(const std::vector<int32_t> & pos) {
    const int32_t n = pos.size();

    int32_t res = 0;
    for (int32_t b = 0, e = 0; b < n; b = e) {
        e   = find_limit(pos.data(), b, n, ((int64_t) pos[b]/FATTN_ORDER_BLOCK + 1)*FATTN_ORDER_BLOCK);
        res = std::max(res, e - b);
    }
    return res;
}

llama_kq_plan::llama_kq_plan(uint32_t n_groups, std::vector<int32_t> group_of_token_, std::vector<llama_kq_cells> lists_) :
    n_groups(n_groups), group_of_token(std::move(group_of_token_)), n_tokens(n_groups), lists(std::move(lists_)) {
    for (const int32_t g : group_of_token) {
        n_tokens[g]++;
    }
    plan();
}

size_t llama_kq_plan::size_max(uint32_t n_groups, uint32_t n_tokens, uint32_t n_cells) {
    const size_t fixed = FATTN_ORDER_HEAD + 2*n_tokens + n_groups*(FATTN_ORDER_GROUP + FATTN_ORDER_PART) + 2*n_cells;

    return n_groups == 1 ? fixed : fixed + 2*n_cells + n_groups*(2*N_GATHERED + N_TABLE) + N_TEAMS*n_tokens;
}

size_t llama_kq_plan::size() const {
    size_t res = FATTN_ORDER_HEAD + group_of_token.size() + 2*cells.size();

    const auto add = [&](const entry & e) {
        res += FATTN_ORDER_GROUP + FATTN_ORDER_PART*e.parts.size();
        for (const int32_t g : e.groups) {
            res += n_tokens[g];
        }
    };

    std::for_each(alone.begin(), alone.end(), add);
    if (is_shared()) {
        std::for_each(teams.begin(), teams.end(), add);
    }
    return res;
}

bool llama_kq_plan::is_shared() const {
    return std::any_of(teams.begin(), teams.end(), [](const entry & e) { return e.groups.size() > 1; });
}

void llama_kq_plan::plan() {
    cells.clear();
    pos.clear();
    teams.clear();
    n_block.clear();

    alone.assign(n_groups, {});
    for (uint32_t g = 0; g < n_groups; ++g) {
        alone[g].groups = { (int32_t) g };
    }

    team_of_list .assign(lists.size(), -1);
    team_of_group.assign(n_groups,     -1);

    std::vector<piece> pieces;
    for (size_t l = 0; l < lists.size(); ++l) {
        sort_by_position(lists[l]);
        n_block.push_back(most_in_block(lists[l].pos));

        const int32_t begin = cells.size();
        cells.insert(cells.end(), lists[l].cells.begin(), lists[l].cells.end());
        pos  .insert(pos  .end(), lists[l].pos  .begin(), lists[l].pos  .end());

        const int32_t end = cells.size();
        for (int32_t b = begin, e = begin; b < end; b = e) {
            const int32_t chunk = pos[b]/FATTN_ORDER_CHUNK;

            e = find_limit(pos.data(), b, end, ((int64_t) chunk + 1)*FATTN_ORDER_CHUNK);
            pieces.push_back({ chunk, (int32_t) l, b, e });
        }
    }

    std::sort(pieces.begin(), pieces.end(), [](const piece & a, const piece & b) {
        return std::make_pair(a.chunk, a.list) < std::make_pair(b.chunk, b.list);
    });

    for (size_t b = 0, e = 0; b < pieces.size(); b = e) {
        while (e < pieces.size() && pieces[e].chunk == pieces[b].chunk) {
            ++e;
        }
        plan_chunk(pieces, b, e);
    }
}

void llama_kq_plan::plan_chunk(const std::vector<piece> & pieces, size_t begin, size_t end) {
    std::vector<int32_t> n_seen(n_groups);
    for (size_t i = begin; i < end; ++i) {
        for (const int32_t g : lists[pieces[i].list].groups) {
            n_seen[g]++;
        }
    }

    std::vector<piece> ragged;
    for (size_t i = begin; i < end; ++i) {
        const auto & groups = lists[pieces[i].list].groups;
        if (std::all_of(groups.begin(), groups.end(), [&](int32_t g) { return n_seen[g] == 1; })) {
            add_whole(pieces[i]);
        } else {
            ragged.push_back(pieces[i]);
        }
    }
    if (!ragged.empty()) {
        add_ragged(ragged);
    }
}

// all groups of a list see nothing else in a chunk
void llama_kq_plan::add_whole(const piece & p) {
    const auto & groups = lists[p.list].groups;

    add_part(team_for(groups, p.list), 0, groups.size(), { 0, 0, p.begin, p.end - p.begin }, n_block[p.list]);
}

// the team whose chunks go on with those of a list; of a group by itself, whatever the list
llama_kq_plan::entry & llama_kq_plan::team_for(const std::vector<int32_t> & groups, int32_t list) {
    int32_t none = -1;
    int32_t & i  = groups.size() == 1 ? team_of_group[groups[0]] : list >= 0 ? team_of_list[list] : none;
    if (i < 0) {
        i = teams.size();
        teams.emplace_back();
        teams.back().groups = groups;
    }
    return teams[i];
}

struct llama_kq_plan::blocks {
    std::vector<int32_t> groups;

    // of each group: which of the views below it has, by block; -1 for no cells
    std::vector<std::array<int32_t, N_BLOCKS>> view; // [n_groups]

    std::vector<std::vector<part>> views;

    int32_t view_of(int32_t i, int32_t b) const { return view[groups[i]][b]; }
};

// groups that see several lists in one chunk, or share one with groups that do
void llama_kq_plan::add_ragged(const std::vector<piece> & pieces) {
    blocks all;
    all.view.resize(n_groups);

    std::vector<std::vector<part>>    seen(n_groups);
    std::vector<std::vector<int32_t>> ids(n_groups);
    std::vector<bool>                 is_here(n_groups);

    for (int32_t b = 0; b < N_BLOCKS; ++b) {
        const int64_t from = (int64_t) pieces[0].chunk*FATTN_ORDER_CHUNK + b*FATTN_ORDER_BLOCK;

        for (int32_t i = 0; i < (int32_t) pieces.size(); ++i) {
            const piece & p = pieces[i];

            const int32_t begin = std::lower_bound(pos.begin() + p.begin, pos.begin() + p.end, from)                     - pos.begin();
            const int32_t end   = std::lower_bound(pos.begin() + begin,   pos.begin() + p.end, from + FATTN_ORDER_BLOCK) - pos.begin();

            for (const int32_t g : lists[p.list].groups) {
                if (begin < end) {
                    seen[g].push_back({ 0, 0, begin, end - begin });
                    ids[g].push_back(i);
                }
                is_here[g] = true;
            }
        }

        std::map<std::vector<int32_t>, int32_t> known;
        for (uint32_t g = 0; g < n_groups; ++g) {
            const auto found = ids[g].empty() ? known.end() : known.emplace(ids[g], all.views.size()).first;

            all.view[g][b] = found == known.end() ? -1 : found->second;
            if (all.view[g][b] == (int32_t) all.views.size()) {
                all.views.push_back(seen[g]);
            }
            seen[g].clear();
            ids[g].clear();
        }
    }

    for (uint32_t g = 0; g < n_groups; ++g) {
        if (is_here[g]) {
            all.groups.push_back(g);
        }
    }
    std::sort(all.groups.begin(), all.groups.end(), [&](int32_t g, int32_t h) {
        return std::tie(all.view[g], g) < std::tie(all.view[h], h);
    });

    const auto first = [&](int32_t g) {
        return *std::find_if(all.view[g].begin(), all.view[g].end() - 1, [](int32_t v) { return v >= 0; });
    };

    // a team begins with cells that all of it sees
    const auto groups = all.groups;
    for (auto begin = groups.begin(), end = begin; begin != groups.end(); begin = end) {
        end = std::find_if(begin, groups.end(), [&](int32_t g) { return first(g) != first(*begin); });

        all.groups.assign(begin, end);
        add_blocks(all, team_for(all.groups, -1), 0, 0, all.groups.size());
    }
}

// blocks from b on of groups that have seen the same so far
void llama_kq_plan::add_blocks(const blocks & all, entry & team, int32_t b, int32_t begin, int32_t end) {
    if (b == N_BLOCKS) {
        return;
    }
    for (int32_t from = begin, to = begin; from < end; from = to) {
        while (to < end && all.view_of(to, b) == all.view_of(from, b)) {
            ++to;
        }
        if (all.view_of(from, b) >= 0) {
            const auto & view = all.views[all.view_of(from, b)];
            const part   one  = view.size() == 1 ? view[0] : put_together(view);

            add_part(team, from, to, one, one.n);
        }
        add_blocks(all, team, b + 1, from, to);
    }
}

// cells that groups [begin, end) of a team see
void llama_kq_plan::add_part(entry & team, int32_t begin, int32_t end, const part & p, int32_t n_in_block) {
    const auto append = [&](entry & to, int32_t t0, int32_t n_t) {
        to.n_block = std::max(to.n_block, n_in_block);

        part * last = to.parts.empty() ? nullptr : &to.parts.back();
        if (last && last->t0 == t0 && last->n_t == n_t && last->begin + last->n == p.begin) {
            last->n += p.n;
            return;
        }
        to.parts.push_back({ t0, n_t, p.begin, p.n });
    };

    append(team, begin, end - begin);
    for (int32_t i = begin; i < end; ++i) {
        append(alone[team.groups[i]], 0, 1);
    }
}

// a copy of some cells of one block, by position
llama_kq_plan::part llama_kq_plan::put_together(std::vector<part> ranges) {
    llama_kq_cells found;
    for (const part & p : ranges) {
        found.cells.insert(found.cells.end(), cells.begin() + p.begin, cells.begin() + p.begin + p.n);
        found.pos  .insert(found.pos  .end(), pos  .begin() + p.begin, pos  .begin() + p.begin + p.n);
    }
    sort_by_position(found);

    const part res { 0, 0, (int32_t) cells.size(), (int32_t) found.cells.size() };
    cells.insert(cells.end(), found.cells.begin(), found.cells.end());
    pos  .insert(pos  .end(), found.pos  .begin(), found.pos  .end());
    return res;
}

void llama_kq_plan::merge_lists() {
    llama_kq_cells all;

    all.groups.resize(n_groups);
    std::iota(all.groups.begin(), all.groups.end(), 0);

    for (const auto & list : lists) {
        all.cells.insert(all.cells.end(), list.cells.begin(), list.cells.end());
        all.pos  .insert(all.pos  .end(), list.pos  .begin(), list.pos  .end());
    }
    lists = { std::move(all) };
    plan();
}

void llama_kq_plan::write(int32_t * row, size_t n) {
    if (size() > n) {
        merge_lists();
    }
    GGML_ASSERT(size() <= n);

    const bool has_teams = is_shared();

    row[0] = n_groups;
    row[1] = has_teams ? teams.size() : 0;
    row[2] = cells.size();

    std::vector<const entry *> entries;
    for (const auto & e : alone) {
        entries.push_back(&e);
    }
    for (const auto & e : teams) {
        if (has_teams) {
            entries.push_back(&e);
        }
    }

    std::vector<std::vector<int32_t>> tokens(n_groups);
    for (size_t i = 0; i < group_of_token.size(); ++i) {
        tokens[group_of_token[i]].push_back(i);
    }

    int32_t * head  = row + FATTN_ORDER_HEAD + group_of_token.size();
    int32_t   at    = head - row + FATTN_ORDER_GROUP*entries.size();
    int32_t   parts = at;
    for (const auto * e : entries) {
        for (const int32_t g : e->groups) {
            parts += tokens[g].size();
        }
    }
    int32_t where = parts;
    for (const auto * e : entries) {
        where += FATTN_ORDER_PART*e->parts.size();
    }
    std::copy(cells.begin(), cells.end(), row + where);
    std::copy(pos  .begin(), pos  .end(), row + where + cells.size());

    for (const auto * e : entries) {
        std::vector<int32_t> first = { 0 }; // token of each group
        const int32_t tokens_at = at;
        for (const int32_t g : e->groups) {
            std::copy(tokens[g].begin(), tokens[g].end(), row + at);
            at += tokens[g].size();
            first.push_back(at - tokens_at);
        }

        const int32_t parts_at = parts;

        int32_t low = INT32_MAX, high = -1;
        for (const auto & p : e->parts) {
            const int32_t t0 = first[p.t0];

            for (const int32_t x : { t0, first[p.t0 + p.n_t] - t0, where + p.begin, p.n }) {
                row[parts++] = x;
            }
            low  = std::min(low,  pos[p.begin]/FATTN_ORDER_CHUNK);
            high = std::max(high, pos[p.begin + p.n - 1]/FATTN_ORDER_CHUNK);
        }

        for (const int32_t x : { at - tokens_at, tokens_at, (int32_t) e->parts.size(), parts_at,
                high < 0 ? 0 : low, high < 0 ? 0 : high - low + 1, e->n_block }) {
            *head++ = x;
        }
    }

    for (size_t i = 0; i < group_of_token.size(); ++i) {
        row[FATTN_ORDER_HEAD + i] = (row + FATTN_ORDER_HEAD + group_of_token.size())[FATTN_ORDER_GROUP*group_of_token[i] + 4];
    }
}
