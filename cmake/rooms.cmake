# The rooms, lowest first. DEPENDS names the rooms whose headers a room may include, together with
# everything that those reach; scripts/check-includes enforces it.
fewbit_room(base LIBRARIES fmt::fmt spdlog::spdlog nlohmann_json::nlohmann_json
                           tomlplusplus::tomlplusplus OpenSSL::Crypto Threads::Threads)
fewbit_room(io DEPENDS base LIBRARIES PkgConfig::ZSTD)
# Support for tests only: fixture discovery, temporary folders. Never linked into the product.
if(FEWBIT_BUILD_TESTS)
  fewbit_room(testing DEPENDS base LIBRARIES GTest::gtest)
  target_compile_definitions(fewbit_testing PRIVATE FEWBIT_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/data")
endif()
fewbit_room(text DEPENDS io LIBRARIES PkgConfig::PCRE2 PkgConfig::UTF8PROC)
fewbit_room(formats DEPENDS io LIBRARIES hwy::hwy)
fewbit_room(model DEPENDS formats text)
fewbit_room(kernels DEPENDS formats LIBRARIES hwy::hwy)
fewbit_room(runtime DEPENDS model kernels)
fewbit_room(eval DEPENDS model)
fewbit_room(laws DEPENDS base LIBRARIES Ceres::ceres Eigen3::Eigen hwy::hwy)
fewbit_room(network DEPENDS model kernels LIBRARIES DNNL::dnnl OpenMP::OpenMP_CXX TORCH)
fewbit_room(train DEPENDS network TORCH)
fewbit_room(calibrate DEPENDS train TORCH)
fewbit_room(methods DEPENDS calibrate TORCH)
fewbit_room(vision DEPENDS methods TORCH)
fewbit_room(study DEPENDS vision methods eval laws runtime LIBRARIES SQLiteCpp TORCH)
