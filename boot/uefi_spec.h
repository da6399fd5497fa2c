/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_UEFI_SPEC_H
#define BOOT_UEFI_SPEC_H
/*
 * What we use of the UEFI Specification 2.10, under its names. Tables and protocols are memory of
 * this machine: natural types, native order. Services that are never called are void pointers.
 * Physical addresses and bytes; text is UCS-2.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#define EFIAPI __attribute__((ms_abi)) /* 2.3.4.2 */
#else
#define EFIAPI
#endif

typedef uint64_t efi_status; /* appendix D: errors have the highest bit */
#define EFI_ERROR(n)          (1ull << 63 | (n))
#define EFI_SUCCESS           0
#define EFI_LOAD_ERROR        EFI_ERROR(1)
#define EFI_INVALID_PARAMETER EFI_ERROR(2)
#define EFI_NOT_FOUND         EFI_ERROR(14)

typedef void *efi_handle;
struct efi_guid {
    uint32_t a;
    uint16_t b, c;
    uint8_t d[8];
};
static_assert(sizeof(struct efi_guid) == 16, "");
#define EFI_ACPI_20_TABLE_GUID                             \
    {                                                      \
        0x8868e871, 0xe4f1, 0x11d3,                        \
        {                                                  \
            0xbc, 0x22, 0x00, 0x80, 0xc7, 0x3c, 0x88, 0x81 \
        }                                                  \
    }
#define EFI_DTB_TABLE_GUID                                 \
    {                                                      \
        0xb1b621d5, 0xf19c, 0x41a5,                        \
        {                                                  \
            0x83, 0x0b, 0xd9, 0x15, 0x2c, 0x69, 0xaa, 0xe0 \
        }                                                  \
    }
#define EFI_LOADED_IMAGE_PROTOCOL_GUID                     \
    {                                                      \
        0x5b1b31a1, 0x9562, 0x11d2,                        \
        {                                                  \
            0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b \
        }                                                  \
    }
#define EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID               \
    {                                                      \
        0x964e5b22, 0x6459, 0x11d2,                        \
        {                                                  \
            0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b \
        }                                                  \
    }

/* 7.2 Memory allocation services */
enum { EFI_ALLOCATE_MAX_ADDRESS = 1, EFI_ALLOCATE_ADDRESS = 2 };
enum efi_memory_type {
    EFI_LOADER_CODE = 1,
    EFI_LOADER_DATA = 2,
    EFI_BOOT_SERVICES_CODE = 3,
    EFI_BOOT_SERVICES_DATA = 4,
    EFI_CONVENTIONAL_MEMORY = 7
};
#define EFI_PAGE_SIZE 4096u
struct efi_memory_descriptor {
    uint32_t type, pad;
    uint64_t physical_start, virtual_start, number_of_pages, attribute;
};
static_assert(sizeof(struct efi_memory_descriptor) == 40, "");

/* 4.2 EFI table header: 24 bytes that we do not look at */
struct efi_table_header {
    uint64_t signature;
    uint32_t revision, header_size, crc32, reserved;
};
static_assert(sizeof(struct efi_table_header) == 24, "");

/* 4.4 Boot services */
struct efi_boot_services {
    struct efi_table_header hdr;
    void *task_priority[2];
    efi_status(EFIAPI *allocate_pages)(unsigned how, unsigned memory_type, uint64_t pages,
                                       uint64_t *address);
    efi_status(EFIAPI *free_pages)(uint64_t address, uint64_t pages);
    efi_status(EFIAPI *get_memory_map)(uint64_t *size, void *map, uint64_t *key,
                                       uint64_t *descriptor_size, uint32_t *version);
    void *pool[2], *events[6], *install_protocol[3];
    efi_status(EFIAPI *handle_protocol)(efi_handle, const struct efi_guid *, void **interface);
    void *reserved, *notify, *locate[2], *install_table, *image[4];
    efi_status(EFIAPI *exit_boot_services)(efi_handle image, uint64_t key);
};
static_assert(offsetof(struct efi_boot_services, get_memory_map) == 56, "");
static_assert(offsetof(struct efi_boot_services, handle_protocol) == 152, "");
static_assert(offsetof(struct efi_boot_services, exit_boot_services) == 232, "");

/* 4.5 Runtime services, 8.5.1 ResetSystem */
enum { EFI_RESET_COLD = 0 };
struct efi_runtime_services {
    struct efi_table_header hdr;
    void *time[4], *virtual_memory[2], *variables[3], *monotonic;
    void(EFIAPI *reset_system)(unsigned how, efi_status, uint64_t size, const void *data);
};
static_assert(offsetof(struct efi_runtime_services, reset_system) == 104, "");

/* 12.4 Simple text output */
struct efi_simple_text_output {
    void *reset;
    efi_status(EFIAPI *output_string)(struct efi_simple_text_output *, const uint16_t *);
};

/* 4.3 System table, 4.6 configuration tables */
struct efi_configuration_table {
    struct efi_guid guid;
    const void *table;
};
static_assert(sizeof(struct efi_configuration_table) == 24, "");
struct efi_system_table {
    struct efi_table_header hdr;
    void *firmware_vendor;
    uint32_t firmware_revision, pad;
    void *con_in_handle, *con_in, *con_out_handle;
    struct efi_simple_text_output *con_out;
    void *std_err_handle, *std_err;
    struct efi_runtime_services *runtime;
    struct efi_boot_services *boot;
    uint64_t table_count;
    struct efi_configuration_table *tables;
};
static_assert(offsetof(struct efi_system_table, con_out) == 64, "");
static_assert(offsetof(struct efi_system_table, tables) == 112, "");

/* 9.1 Loaded image */
struct efi_loaded_image {
    uint32_t revision;
    efi_handle parent;
    struct efi_system_table *system;
    efi_handle device;
    const void *file_path; /* nodes, struct efi_device_path */
    void *reserved;
    uint32_t load_options_size; /* bytes */
    const void *load_options;
    void *image_base;
    uint64_t image_size;
};
static_assert(offsetof(struct efi_loaded_image, load_options) == 56, "");

/* 10.2, 10.3.5.4 Device path nodes; they have no alignment */
enum { EFI_MEDIA_PATH = 4, EFI_MEDIA_FILE_PATH = 4, EFI_END_PATH = 0x7f };
struct efi_device_path {
    uint8_t type, subtype, length[2]; /* bytes, these four included */
};
static_assert(sizeof(struct efi_device_path) == 4, "");

/* 13.4 Simple file system, 13.5 file */
#define EFI_FILE_MODE_READ 1u
struct efi_file {
    uint64_t revision;
    efi_status(EFIAPI *open)(struct efi_file *, struct efi_file **, const uint16_t *name,
                             uint64_t mode, uint64_t attributes);
    efi_status(EFIAPI *close)(struct efi_file *);
    void *remove;
    efi_status(EFIAPI *read)(struct efi_file *, uint64_t *size, void *buffer);
};
static_assert(offsetof(struct efi_file, read) == 32, "");
struct efi_simple_file_system {
    uint64_t revision;
    efi_status(EFIAPI *open_volume)(struct efi_simple_file_system *, struct efi_file **root);
};
#endif
