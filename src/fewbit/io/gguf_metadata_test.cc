#include "fewbit/io/gguf_metadata.h"

#include <gtest/gtest.h>

#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

FEWBIT_FIXTURE_TEST(GgufMetadataFixture, "gguf", ".gguf") {
  const GgufFile file = GgufFile::open(path());
  const std::string bytes = gguf_metadata_bytes(file);
  const GgufFile copy = GgufFile::parse(as_bytes(bytes), "copy");
  EXPECT_TRUE(copy.tensors().empty());
  ASSERT_EQ(copy.values().size(), file.values().size());
  for (size_t i = 0; i < file.values().size(); ++i) {
    const GgufValue &a = file.values()[i], &b = copy.values()[i];
    EXPECT_EQ(a.key, b.key);
    EXPECT_EQ(a.type_text(), b.type_text());
    EXPECT_EQ(as_text(a.bytes), as_text(b.bytes)) << a.key;
  }
}

}  // namespace
}  // namespace fewbit
