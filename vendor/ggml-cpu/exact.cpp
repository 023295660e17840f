#include "exact.h"

#include "fill.h"
#include "huge-pages.h"
#include "invariant/invariant.h"
#include "ordered/fattn-ordered.h"
#include "states/shift.h"
#include "states/wkv.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "traits.h"

static ggml_backend_buffer_type_t exact_buffer_type();

bool ggml_cpu_invariant_is_packed(const ggml_tensor * w) {
    return w->buffer && w->buffer->buft == exact_buffer_type();
}

size_t ggml_cpu_exact_work_size(const ggml_tensor * op, int n_threads) {
    if (ggml_cpu_invariant_supported(op)) {
        return ggml_cpu_invariant_work_size(op, n_threads);
    }
    return ggml_fattn_ordered_supported(op) ? ggml_fattn_ordered_work_size(op, n_threads) : 0;
}

namespace {

// the size is what ggml_cpu_exact_work_size() says: with use_ref, ggml-cpu computes the op, and needs what it asks for
struct exact_traits : ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor *, size_t &) override {
        return false;
    }
};

struct product_traits : exact_traits {
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref && !ggml_cpu_invariant_is_packed(op->src[0])) {
            return false;
        }
        ggml_compute_forward_mul_mat_invariant(params, op);
        return true;
    }
};

struct attention_traits : exact_traits {
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref) {
            return false;
        }
        ggml_compute_forward_flash_attn_ext_ordered(params, op);
        return true;
    }
};

// stock knows no trees
struct wkv_traits : exact_traits {
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref && !ggml_cpu_wkv_is_tree(op)) {
            return false;
        }
        ggml_compute_forward_wkv(params, op);
        return true;
    }
};

struct shift_traits : exact_traits {
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        ggml_compute_forward_shift(params, op);
        return true;
    }
};

struct fill_traits : exact_traits {
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        ggml_compute_forward_fill_contiguous(params, op);
        return true;
    }
};

struct exact_extra : ggml::cpu::extra_buffer_type {
    // whether weights may be packed for an op
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        if (!ggml_cpu_invariant_supported(op) || !ggml_cpu_invariant_can_pack(op->src[0])) {
            return false;
        }

        const ggml_tensor * x = op->src[1];
        return x->type == GGML_TYPE_F32 && !(x->buffer && !ggml_backend_buft_is_host(x->buffer->buft));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        // never freed: threads may still compute while the process ends
        static auto * products  = new product_traits();
        static auto * attention = new attention_traits();
        static auto * wkv       = new wkv_traits();
        static auto * shift     = new shift_traits();
        static auto * fill      = new fill_traits();

        if (ggml_cpu_invariant_supported(op)) {
            return products;
        }
        if (ggml_fattn_ordered_supported(op)) {
            return attention;
        }
        if (ggml_cpu_wkv_supported(op)) {
            return wkv;
        }
        if (ggml_cpu_shift_supported(op)) {
            return shift;
        }
        return ggml_cpu_fill_supported(op) ? fill : nullptr;
    }
};

} // namespace

static const char * exact_get_name(ggml_backend_buffer_type_t) {
    return "CPU_INVARIANT";
}

static void exact_set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0);
    GGML_ASSERT(size == ggml_nbytes(tensor));

    ggml_cpu_invariant_pack(tensor, data);
}

static ggml_backend_buffer_t exact_alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer == nullptr) {
        return nullptr;
    }

    // nothing is written yet: a pass reads all of it, and small pages are looked up more slowly than memory is read
    use_huge_pages(ggml_backend_buffer_get_base(buffer), size);

    buffer->buft             = buft;
    buffer->iface.set_tensor = exact_set_tensor;
    buffer->iface.get_tensor = nullptr;
    buffer->iface.cpy_tensor = nullptr;
    return buffer;
}

static size_t exact_get_alignment(ggml_backend_buffer_type_t) {
    return 64;
}

static ggml_backend_buffer_type_t exact_buffer_type() {
    static ggml_backend_buffer_type type = {
        /* .iface   = */ {
            /* .get_name       = */ exact_get_name,
            /* .alloc_buffer   = */ exact_alloc_buffer,
            /* .get_alignment  = */ exact_get_alignment,
            /* .get_max_size   = */ nullptr,
            /* .get_alloc_size = */ nullptr,
            /* .is_host        = */ nullptr,
        },
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ new exact_extra(),
    };

    return &type;
}

bool ggml_cpu_exact_add_buffer_type(std::vector<ggml_backend_buffer_type_t> & types) {
    types.push_back(exact_buffer_type());
    return ggml_cpu_invariant_enabled();
}
