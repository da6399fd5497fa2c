/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_REGISTRY_H
#define KERNEL_REGISTRY_H
/*
 * Drivers, formats, filters, exports, options, QMP commands, pools and tests announce themselves:
 * no central table to edit.
 *
 *     const struct blk_driver blk_raw = {.name = "raw", ...};
 *     REGISTER(blk_driver, blk_raw);                      in its own file
 *
 *     REGISTRY(blk_driver, struct blk_driver);            once in the header that declares the kind
 *     registry_for_each(blk_driver, d) { ... (*d)->name ... }
 *
 * What lies in the section `reg_KIND` is a pointer (structs would be padded by gcc). Link order is
 * undefined: whoever lists sorts by name. Rooms are linked as objects, never as archives. A kind
 * that nobody registers is an empty range.
 */
#define REGISTER(kind, object)                                                \
    __attribute__((used, retain, section("reg_" #kind))) static __typeof__(&( \
        object)) reg_##kind##_##object = &(object)

/* The empty section makes __start_ and __stop_ exist when nobody registers. */
#define REGISTRY(kind, type)                                             \
    __asm__(".pushsection reg_" #kind ",\"aw\",@progbits\n.popsection"); \
    extern type *const __start_reg_##kind[];                             \
    extern type *const __stop_reg_##kind[]

#define registry_for_each(kind, it) \
    for (__typeof__(&__start_reg_##kind[0]) it = __start_reg_##kind; it < __stop_reg_##kind; it++)
#endif
