#pragma once

// what the files of the bridge share

#include "treellama.h"

#include <exception>
#include <string>

void treellama_set_error(const std::string & message);

// run f; a C++ exception becomes `failed`, and its message this thread's last error
template <typename F, typename R>
R treellama_guard(R failed, F && f) {
    try {
        return f();
    } catch (const std::exception & err) {
        treellama_set_error(err.what());
    } catch (...) {
        treellama_set_error("unknown C++ exception");
    }

    return failed;
}
