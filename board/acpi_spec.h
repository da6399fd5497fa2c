/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_ACPI_SPEC_H
#define BOARD_ACPI_SPEC_H
/* Layouts of the ACPI specification, version 6.3, chapters 5 and 6. */
#include "kernel/endian.h"
#include <assert.h>

struct acpi_rsdp { /* 5.2.5.3 */
    char signature[8];
    uint8_t checksum;
    char oem[6];
    uint8_t revision;
    le32 rsdt;
    /* from revision 2 on */
    le32 length;
    le64 xsdt;
    uint8_t extended_checksum, reserved[3];
};
static_assert(sizeof(struct acpi_rsdp) == 36, "");
#define ACPI_RSDP_V1_LEN 20u

struct acpi_header { /* 5.2.6 */
    char signature[4];
    le32 length;
    uint8_t revision, checksum;
    char oem[6], oem_table[8];
    le32 oem_revision, creator, creator_revision;
};
static_assert(sizeof(struct acpi_header) == 36, "");

struct acpi_gas_spec { /* 5.2.3.2 */
    uint8_t space, width, offset, access;
    le64 address;
};
static_assert(sizeof(struct acpi_gas_spec) == 12, "");

struct acpi_fadt { /* 5.2.9; the fields that we read */
    struct acpi_header header;
    le32 firmware_ctrl, dsdt;
    uint8_t reserved0, profile;
    le16 sci_int;
    le32 smi_cmd;
    uint8_t acpi_enable, acpi_disable, s4bios, pstate;
    le32 pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
    uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base, cst;
    le16 lvl2, lvl3, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
    le16 boot_flags;
    uint8_t reserved1;
    le32 flags;
    struct acpi_gas_spec reset;
    uint8_t reset_value;
    le16 arm_flags;
    uint8_t minor;
    le64 x_firmware_ctrl, x_dsdt;
    struct acpi_gas_spec x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr;
    struct acpi_gas_spec x_gpe0, x_gpe1, sleep_control, sleep_status;
};
static_assert(sizeof(struct acpi_fadt) == 268, "");
#define ACPI_FADT_RESET_SUP  (1u << 10)
#define ACPI_FADT_HW_REDUCED (1u << 20)
enum { ACPI_ARM_PSCI = 1, ACPI_ARM_PSCI_HVC = 2 }; /* arm_flags */

enum { ACPI_SPACE_MEMORY = 0, ACPI_SPACE_IO = 1 };

struct acpi_madt { /* 5.2.12 */
    struct acpi_header header;
    le32 lapic, flags;
};
static_assert(sizeof(struct acpi_madt) == 44, "");
enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_X2APIC = 9 };
struct madt_lapic {
    uint8_t type, len, uid, id;
    le32 flags; /* bit 0: enabled */
};
static_assert(sizeof(struct madt_lapic) == 8, "");
struct madt_ioapic {
    uint8_t type, len, id, reserved;
    le32 address, gsi_base;
};
static_assert(sizeof(struct madt_ioapic) == 12, "");
struct madt_override {
    uint8_t type, len, bus, irq;
    le32 gsi;
    le16 flags; /* bits 1-0: 3 = active low; bits 3-2: 3 = level */
};
static_assert(sizeof(struct madt_override) == 10, "");
struct madt_x2apic {
    uint8_t type, len;
    le16 reserved;
    le32 id, flags, uid;
};
static_assert(sizeof(struct madt_x2apic) == 16, "");

/* Of Arm's, the fields that we read; the GICC of old tables ends before gicr. */
enum { MADT_GICC = 11, MADT_GICD = 12, MADT_GIC_MSI = 13, MADT_GICR = 14, MADT_GIC_ITS = 15 };
struct madt_gicc {
    uint8_t type, len;
    le16 reserved;
    le32 number, uid, flags, parking, performance; /* bit 0: enabled */
    le64 parked, base, gicv, gich;
    le32 maintenance;
    le64 gicr, mpidr;
};
static_assert(sizeof(struct madt_gicc) == 76, "");
#define MADT_GICC_OLD_LEN offsetof(struct madt_gicc, gicr)
struct madt_gicd {
    uint8_t type, len;
    le16 reserved;
    le32 id;
    le64 base;
    le32 gsi_base;
    uint8_t version, reserved1[3];
};
static_assert(sizeof(struct madt_gicd) == 24, "");
struct madt_gic_msi {
    uint8_t type, len;
    le16 reserved;
    le32 id;
    le64 base;
    le32 flags;
    le16 spi_count, spi_base;
};
static_assert(sizeof(struct madt_gic_msi) == 24, "");
struct madt_gicr {
    uint8_t type, len;
    le16 reserved;
    le64 base;
    le32 length;
};
static_assert(sizeof(struct madt_gicr) == 16, "");
struct madt_gic_its {
    uint8_t type, len;
    le16 reserved;
    le32 id;
    le64 base;
    le32 reserved1;
};
static_assert(sizeof(struct madt_gic_its) == 20, "");

struct acpi_gtdt { /* 5.2.24; the fields that we read */
    struct acpi_header header;
    le64 counter;
    le32 reserved, secure_gsi, secure_flags, gsi, flags, virtual_gsi, virtual_flags;
};
static_assert(sizeof(struct acpi_gtdt) == 72, "");

struct acpi_spcr { /* Serial Port Console Redirection Table, 1.08; the fields that we read */
    struct acpi_header header;
    uint8_t type, reserved[3];
    struct acpi_gas_spec base;
};
static_assert(sizeof(struct acpi_spcr) == 52, "");
enum { SPCR_PL011 = 3, SPCR_SBSA_32 = 13, SPCR_SBSA = 14 }; /* DBG2, table 3 */

struct acpi_mcfg_entry { /* PCI firmware specification 3.0, 4.1.2 */
    le64 base;
    le16 segment;
    uint8_t first_bus, last_bus;
    le32 reserved;
};
static_assert(sizeof(struct acpi_mcfg_entry) == 16, "");
#define ACPI_MCFG_ENTRIES 44u /* offset of the first */

/* AML, chapter 20; resource descriptors, 6.4. */
enum {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_WORD = 0x0b,
    AML_DWORD = 0x0c,
    AML_STRING = 0x0d,
    AML_QWORD = 0x0e,
    AML_PACKAGE = 0x12,
    AML_METHOD = 0x14,
    AML_EXT = 0x5b,
    AML_EXT_REGION = 0x80,
    AML_RETURN = 0xa4,
    RES_MEMORY32_FIXED = 0x86,
    RES_DWORD_SPACE = 0x87,
    RES_INTERRUPT = 0x89,
    RES_QWORD_SPACE = 0x8a,
};
#endif
