/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_UEFI_H
#define BOOT_UEFI_H
/*
 * Between the UEFI program (uefi.c) and what its architecture does once the firmware is gone. The
 * handoff is one block of memory that the program took: everything that is known, and the image
 * itself, on its way to the address that it is linked for. Physical addresses, bytes.
 */
#include "boot/pvh_spec.h"

#define UEFI_WORDS_MAX  4096u
#define UEFI_MEMMAP_MAX 256u
#define UEFI_SCRATCH    0xc000u /* strongroom.conf, then a memory map of 1,000 descriptors */
#define UEFI_CODE_MAX   256u

struct uefi_handoff {
    struct hvm_start_info start; /* x86_64: what any PVH loader gives */
    uint64_t fdt;                /* flattened device tree, 0: none */
    struct hvm_memmap_entry memmap[UEFI_MEMMAP_MAX];
    char words[UEFI_WORDS_MAX];
    uint8_t scratch[UEFI_SCRATCH];
    uint8_t code[UEFI_CODE_MAX];                    /* a copy of uefi_move */
    uint8_t image[] __attribute__((aligned(4096))); /* with room for its .bss */
};

/* boot/ARCH: the only place that the image can run at, in physical memory (nothing: wherever the
 * handoff is), and the address below which the handoff must be. */
extern const struct uefi_target {
    uint64_t base, end, reach;
} uefi_target;

/* boot/ARCH: position-independent code, run from the handoff with boot services gone: moves the
 * image to its place and enters it there with the handoff's address. */
typedef void uefi_move_fn(struct uefi_handoff *h, const void *image, uint64_t image_bytes);
extern const uint8_t uefi_move[], uefi_move_end[];
#endif
