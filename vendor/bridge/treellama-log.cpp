// errors and log: kept on the C++ side, taken by Python when it wants them

#include "treellama-impl.h"

#include "ggml.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <stdexcept>

static thread_local std::string last_error;

void treellama_set_error(const std::string & message) {
    last_error = message;
}

const char * treellama_last_error(void) {
    return last_error.c_str();
}

static thread_local int n_scopes_that_throw = 0;

treellama_assertions_throw::treellama_assertions_throw() {
    ++n_scopes_that_throw;
}

treellama_assertions_throw::~treellama_assertions_throw() {
    --n_scopes_that_throw;
}

namespace {

// ggml ends the process after this returns; the message is "path:line: text"
void on_failed_assertion(const char * message) {
    if (n_scopes_that_throw == 0) {
        fprintf(stderr, "%s\n", message);
        return;
    }

    const std::string text(message);
    const size_t      folder = text.find_last_of("/\\", text.find(": "));
    throw std::runtime_error(
            "llama.cpp's own check failed at " + text.substr(folder == std::string::npos ? 0 : folder + 1));
}

struct log_line {
    int32_t     level;
    std::string text;
};

// enough for the load of a model with a thousand tensors; the oldest lines go first
constexpr size_t n_lines_max = 4096;

std::mutex           lines_mutex;
std::deque<log_line> lines;
std::atomic<int32_t> n_lines { 0 };

void collect(ggml_log_level level, const char * text, void * /*user_data*/) {
    std::lock_guard<std::mutex> lock(lines_mutex);

    if (level == GGML_LOG_LEVEL_CONT && !lines.empty()) {
        lines.back().text += text;
    } else {
        lines.push_back({ (int32_t) level, text });
        if (lines.size() > n_lines_max) {
            lines.pop_front();
        }
    }

    n_lines = (int32_t) lines.size();
}

} // namespace

void treellama_log_lock() {
    lines_mutex.lock();
}

void treellama_log_unlock() {
    lines_mutex.unlock();
}

void treellama_log_collect(void) {
    llama_log_set(collect, nullptr);
    ggml_set_abort_callback(on_failed_assertion);
}

int32_t treellama_log_pending(void) {
    return n_lines;
}

int32_t treellama_log_next(int32_t * level, char * buf, int32_t size) {
    std::lock_guard<std::mutex> lock(lines_mutex);

    if (lines.empty() || size < 1) {
        return -1;
    }

    const log_line & line = lines.front();
    const int32_t    n    = std::min((int32_t) line.text.size(), size - 1);

    *level = line.level;
    memcpy(buf, line.text.data(), n);
    buf[n] = '\0';

    lines.pop_front();
    n_lines = (int32_t) lines.size();

    return n;
}
