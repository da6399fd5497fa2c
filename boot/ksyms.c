/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names for addresses of code. The build makes the table from the linked image itself: sorted by
 * address, names in one string. Without it (a test program) addresses stay numbers.
 */
#include "boot/boot.h"

struct ksym {
    uint32_t offset, name;
};
extern const uint64_t ksyms_base __attribute__((weak)); /* address of the first function */
extern const struct ksym ksyms[] __attribute__((weak));
extern const uint32_t ksyms_count __attribute__((weak));
extern const char ksyms_names[] __attribute__((weak));

static size_t put_text(char *buf, size_t size, const char *s)
{
    size_t n = 0;
    while (s[n] && n + 1 < size) {
        buf[n] = s[n];
        n++;
    }
    return n;
}

static size_t put_hex(char *buf, size_t size, uintptr_t v)
{
    char digits[2 * sizeof(v) + 1];
    size_t n = sizeof(digits);
    digits[--n] = 0;
    do {
        digits[--n] = "0123456789abcdef"[v & 15];
        v >>= 4;
    } while (v);
    return put_text(buf, size, digits + n);
}

bool ksym_name(uintptr_t addr, char *buf, size_t size)
{
    uint32_t lo = 0, hi = &ksyms_count ? ksyms_count : 0;
    while (lo < hi) { /* ends at the first symbol above addr */
        uint32_t mid = lo + (hi - lo) / 2;
        if (ksyms[mid].offset <= addr - ksyms_base)
            lo = mid + 1;
        else
            hi = mid;
    }
    buf[0] = 0;
    if (!lo || addr < ksyms_base)
        return false;
    const struct ksym *k = &ksyms[lo - 1];
    size_t n = put_text(buf, size, ksyms_names + k->name);
    n += put_text(buf + n, size - n, "+0x");
    n += put_hex(buf + n, size - n, addr - ksyms_base - k->offset);
    buf[n] = 0;
    return true;
}
