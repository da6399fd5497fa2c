/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_AARCH64_GIC_HW_H
#define BOOT_AARCH64_GIC_HW_H
/*
 * Registers of the Generic Interrupt Controller, byte offsets. Sources: Arm IHI 0048 (version 2),
 * IHI 0069 (version 3, ITS), SBSA appendix E (GICv2m frame).
 */
enum gic_intid {
    INTID_SPI = 32,
    INTID_SPI_END = 1020,
    INTID_SPECIAL = 1020, /* 1020 to 1023: nothing is pending */
    INTID_LPI = 8192,
};

enum gicd_register {
    GICD_CTLR = 0x000,
    GICD_TYPER = 0x004,
    GICD_IGROUPR = 0x080,
    GICD_ISENABLER = 0x100,
    GICD_ICENABLER = 0x180,
    GICD_IPRIORITYR = 0x400,
    GICD_ITARGETSR = 0x800, /* version 2 */
    GICD_ICFGR = 0xc00,
    GICD_SGIR = 0xf00, /* version 2 */
    GICD_IROUTER = 0x6000,
    GICD_LENGTH = 0x10000,
    GICD_LENGTH_V2 = 0x1000,
};
enum {
    GICD_CTLR_ENABLE = 1, /* version 2; in version 3 group 0, or 1 of the non-secure view */
    GICD_CTLR_ENABLE_GROUP1 = 1 << 1,
    GICD_CTLR_AFFINITY = 1 << 4,
    GICD_SGIR_SELF = 2 << 24,
};
#define GICD_CTLR_PENDING 0x80000000u /* RWP: a write is on its way */

enum gicc_register { /* version 2 */
                     GICC_CTLR = 0x00,
                     GICC_PMR = 0x04,
                     GICC_IAR = 0x0c,
                     GICC_EOIR = 0x10,
                     GICC_LENGTH = 0x1000,
};

enum v2m_register {
    V2M_TYPER = 0x008,
    V2M_SETSPI = 0x040,
    V2M_LENGTH = 0x1000,
};

enum gicr_register { /* two frames of 64 KiB, or four with GICv4 */
                     GICR_CTLR = 0x0000,
                     GICR_TYPER = 0x0008,
                     GICR_WAKER = 0x0014,
                     GICR_PROPBASER = 0x0070,
                     GICR_PENDBASER = 0x0078,
                     GICR_SGI =
                         0x10000, /* second frame: SGIs and PPIs, offsets as in the distributor */
                     GICR_LENGTH = 0x20000,
                     GICR_LENGTH_V4 = 0x40000,
};
enum {
    GICR_CTLR_ENABLE_LPIS = 1,
    GICR_TYPER_LPIS = 1,
    GICR_TYPER_VLPIS = 1 << 1,
    GICR_TYPER_LAST = 1 << 4,
    GICR_WAKER_SLEEP = 1 << 1,
    GICR_WAKER_CHILDREN_ASLEEP = 1 << 2,
};

enum gits_register {
    GITS_CTLR = 0x0000,
    GITS_TYPER = 0x0008,
    GITS_CBASER = 0x0080,
    GITS_CWRITER = 0x0088,
    GITS_CREADR = 0x0090,
    GITS_BASER = 0x0100, /* eight of them */
    GITS_TRANSLATER = 0x10040,
    GITS_LENGTH = 0x20000,
};
enum {
    GITS_CTLR_ENABLE = 1,
    GITS_BASER_DEVICES = 1,
    GITS_BASER_COLLECTIONS = 4,
};
#define GITS_TYPER_PTA      (1ull << 19)
/* The same in CBASER, BASER, PROPBASER and PENDBASER but for the place of the cacheability. */
#define BASER_VALID         (1ull << 63)
#define BASER_PTZ           (1ull << 62) /* PENDBASER: the table is zero */
#define BASER_WRITE_BACK_59 (7ull << 59) /* CBASER, BASER */
#define BASER_WRITE_BACK_7  (7ull << 7)  /* PROPBASER, PENDBASER */
#define BASER_SHARE         (3ull << 10) /* what is left of it when read back */
#define BASER_INNER_SHARE   (1ull << 10)

enum its_command {
    ITS_SYNC = 0x05,
    ITS_MAPD = 0x08,
    ITS_MAPC = 0x09,
    ITS_MAPTI = 0x0a,
    ITS_INV = 0x0c,
};
struct its_command_entry {
    uint64_t word[4];
};
static_assert(sizeof(struct its_command_entry) == 32, "");
#endif
